"""What differs between two runs, from their logs alone."""

from .comparison import RunComparison, compare_runs

__all__ = ["RunComparison", "compare_runs"]
