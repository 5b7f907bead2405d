"""Flow 1: destination -> plan -> socket -> attempt -> check -> stream."""
