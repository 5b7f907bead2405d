"""What the pytest plugin is made of, without pytest: ports that behave, an in-process trap, and a watch."""
