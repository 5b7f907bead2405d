"""Experiments that measure the real kernel in private networks, and draw their results."""
