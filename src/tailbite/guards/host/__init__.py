"""The host guard: a firewall rule for a whole network namespace, and the units that keep it in place."""
