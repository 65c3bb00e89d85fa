"""Watches trainings: a monitor of a run, its history, and the learning rate range test."""

from onepass.monitor import callbacks
from onepass.monitor._result import Curve, LRRangeResult, Suggestion
from onepass.monitor._snapshot import Snapshot
from onepass.monitor.diagnosis import RULES, Cure, Evidence, Finding, Rule, Threshold, diagnose
from onepass.monitor.history import History
from onepass.monitor.lr_range import lr_range_test
from onepass.monitor.monitor import Monitor

__all__ = [
    "RULES",
    "Cure",
    "Curve",
    "Evidence",
    "Finding",
    "History",
    "LRRangeResult",
    "Monitor",
    "Rule",
    "Snapshot",
    "Suggestion",
    "Threshold",
    "callbacks",
    "diagnose",
    "lr_range_test",
]
