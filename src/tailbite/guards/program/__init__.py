"""``tailbite run``: any program, guarded by a supervisor while it runs."""
