"""The decisions, pure: no socket, no clock, no file. Bytes, numbers and records in; records out."""
