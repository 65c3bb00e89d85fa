"""Layer and RMS normalisation: modules, functions, and what runs them."""

from onepass.nn.row_norm.modules import OURS, LayerNorm, RMSNorm, RowNormModule

__all__ = ["OURS", "LayerNorm", "RMSNorm", "RowNormModule"]
