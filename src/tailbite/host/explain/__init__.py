"""From what was seen to findings with codes, and to the remedies that help. Pure, except for ``checkup``."""
