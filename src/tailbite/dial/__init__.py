"""Opening one connection: names, happy eyeballs, TLS and Unix sockets; one module per shell."""
