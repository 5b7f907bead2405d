"""The parts of the pytest plugin, without pytest: ports, an in-process trap, a watch, a conformance check."""
