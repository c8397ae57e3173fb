"""A run as one self-contained page."""

from .report_file import ReportRefusedError, WrittenReport, write_report

__all__ = ["ReportRefusedError", "WrittenReport", "write_report"]
