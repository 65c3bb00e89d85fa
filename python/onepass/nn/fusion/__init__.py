"""Fusion in forward code: batch norms and the additions, ReLUs and dropouts behind them, found by torch.fx."""
