"""Output of commands for people. Rich is used here and nowhere else."""
