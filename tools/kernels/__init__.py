"""Booting kernels of other releases and running the product on them."""
