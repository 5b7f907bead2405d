"""The ``tailbite lab`` commands."""
