"""The host: snapshot -> finding -> explanation -> remedy. Looks, never changes; what it could not see is a record."""
