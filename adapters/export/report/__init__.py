"""A run as one self-contained page."""

from .page import ReportRefusedError
from .report_file import WrittenReport, write_report

__all__ = ["ReportRefusedError", "WrittenReport", "write_report"]
