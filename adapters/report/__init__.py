"""A run as one self-contained page."""

from .writing import ReportRefusedError, WrittenReport, write_report

__all__ = ["ReportRefusedError", "WrittenReport", "write_report"]
