from __future__ import annotations

import numpy as np
import pytest

from busi_monai.evaluation.resampling import (
    group_weights,
    percentile_interval,
)


def test_groups_are_drawn_whole_and_as_many_as_there_are():
    groups = ["a"] * 3 + ["b"] * 2 + ["c"]
    weights = group_weights(groups, 500, seed=4)
    assert weights.shape == (500, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 4]).all()
    assert (weights[:, [0, 3, 5]].sum(axis=1) == 3).all()
    assert abs(weights[:, 0].mean() - 1) < 0.1


def test_draws_follow_the_seed():
    first, again, other = (group_weights(range(20), 9, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_no_rows_give_no_weights():
    assert group_weights([], 5, seed=0).shape == (5, 0)


def test_interval_is_that_of_the_percentiles():
    low, high = percentile_interval(np.arange(1001) / 1000)
    assert (low, high) == pytest.approx((0.025, 0.975))


def test_mostly_undefined_resamples_have_no_interval():
    assert np.isnan(percentile_interval(np.array([1.0, np.nan, np.nan]))).all()
