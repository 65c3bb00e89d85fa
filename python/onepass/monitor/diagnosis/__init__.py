"""Names the causes that a run's history shows: rules, each with its thresholds, reasons and source."""

from onepass.monitor.diagnosis.diagnose import RULES, diagnose
from onepass.monitor.diagnosis.finding import Cure, Evidence, Finding
from onepass.monitor.diagnosis.rule import Rule, Threshold

__all__ = ["RULES", "Cure", "Evidence", "Finding", "Rule", "Threshold", "diagnose"]
