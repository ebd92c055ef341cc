"""Experiments over several trainings: cross-validation, tuning, comparison of systems."""

from __future__ import annotations

from busi_monai.experiments.comparison import Comparison, compare_systems, paired_differences
from busi_monai.experiments.comparison_report import write_comparison
from busi_monai.experiments.cross_validation import cross_validate
from busi_monai.experiments.systems import System, read_system
from busi_monai.experiments.tuning import TuningPlan, tune

__all__ = [
    "Comparison",
    "System",
    "TuningPlan",
    "compare_systems",
    "cross_validate",
    "paired_differences",
    "read_system",
    "tune",
    "write_comparison",
]
