"""What listens: calls of gRPC's completion queue, functions answering them, and what may come in."""
