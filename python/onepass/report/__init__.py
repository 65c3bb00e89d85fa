"""Reports of trainings: the file that a monitor wrote becomes one HTML file, which needs no network."""

from onepass.report.write import write_report

__all__ = ["write_report"]
