"""What optimizers on several ranks have in common: meshes, and sums over them."""
