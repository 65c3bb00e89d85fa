"""Real training programs of other packages, with our optimizers, layers and schedulers in them."""
