"""From inspections to findings with codes, and to the remedies that help. Pure, except for ``checkup``."""
