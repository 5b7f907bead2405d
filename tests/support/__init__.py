"""What several tests need to meet the real kernel."""
