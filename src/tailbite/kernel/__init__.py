"""Interfaces of the Linux kernel, one module each: bytes in, records out, and the thinnest calls around them."""
