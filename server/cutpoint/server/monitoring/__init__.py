"""Everything that Prometheus sees."""
