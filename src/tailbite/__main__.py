"""``python -m tailbite``."""

from tailbite.cli import main

main()
