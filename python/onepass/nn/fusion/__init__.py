"""What `onepass.nn.fuse` and the backend "onepass" of torch.compile are made of."""
