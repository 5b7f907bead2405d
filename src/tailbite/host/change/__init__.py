"""Changes to a host as records, made only when asked, and undoable."""
