"""Guards for code without a change to it: a Python process, any program, a whole host."""
