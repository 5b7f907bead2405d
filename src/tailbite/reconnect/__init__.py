"""Flow 1, repeated: a connection that comes back. The machine is pure; each shell waits in its own way."""
