"""Changes of whole models: torch's layers become ours and back, and batch norms go into the layers before them."""
