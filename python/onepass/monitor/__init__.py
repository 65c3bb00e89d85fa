"""Measures a training: the learning rate range test."""

from onepass.monitor._result import Curve, LRRangeResult, Suggestion
from onepass.monitor._snapshot import Snapshot
from onepass.monitor.lr_range import lr_range_test

__all__ = ["Curve", "LRRangeResult", "Snapshot", "Suggestion", "lr_range_test"]
