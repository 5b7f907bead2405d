"""Inspecting a host: namespaces, sockets, processes, settings. Nothing here changes anything."""
