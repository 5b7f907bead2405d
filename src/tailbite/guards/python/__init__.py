"""``guard()``: every Python socket of a process, and of the Pythons that it starts."""
