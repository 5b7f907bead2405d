"""Many hosts in one table: what ``tailbite scan --json`` and ``tailbite doctor --json`` printed on each of them."""
