"""Guards for code that is not ours: a Python process, any program, a whole host."""
