"""What differs between two runs, by their logs, and by pixels where only these can tell."""

from .comparison import RunComparison, compare_runs

__all__ = ["RunComparison", "compare_runs"]
