"""The demonstration: a self-connect and its prevention in six acts, each one happening on the running kernel."""
