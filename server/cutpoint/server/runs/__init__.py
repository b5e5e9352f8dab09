"""What computes: lanes, batches, sessions and their providers."""
