"""The one place the version stands; hatch reads it when it builds the wheel."""

__version__ = "0.2.0"
