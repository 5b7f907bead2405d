"""Waiting until servers are really there."""
