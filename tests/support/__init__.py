"""Helpers of several tests that meet the real kernel."""
