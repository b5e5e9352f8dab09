"""Several processes that serve one port: one repository, one policy, one set of metrics among them."""
