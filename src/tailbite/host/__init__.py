"""The host: snapshot -> finding -> explanation -> remedy. Inspects and never changes; what is not visible is a
record."""
