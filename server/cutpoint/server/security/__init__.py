"""Who may call what, and TLS."""
