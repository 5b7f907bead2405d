"""The ready-made verifiers; ``tailbite.verify`` is their public face."""
