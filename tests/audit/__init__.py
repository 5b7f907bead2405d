"""The audit against clients that were written for it, and against those of the world."""
