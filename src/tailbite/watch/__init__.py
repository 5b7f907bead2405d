"""Flow 2 over time: self-connects of a machine as they happen, and their reports for monitoring systems."""
