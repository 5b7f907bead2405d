"""What commands print for people. Rich is used here and nowhere else."""
