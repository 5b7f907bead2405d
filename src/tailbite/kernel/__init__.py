"""Facts of the kernel, one module per interface: bytes in, records out, and the thinnest calls around them."""
