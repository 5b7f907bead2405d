"""Experiments that measure the real kernel, in private networks, and show what they found."""
