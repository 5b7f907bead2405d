"""Checks of the repository's own rules, each a function from the repository to its offences."""
