"""Flow 2 over time: self-connects of a machine as they happen, and what a fleet's own tools want to know of them."""
