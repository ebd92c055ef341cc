"""Experiments over several trainings: cross-validation, tuning, comparison of systems."""
