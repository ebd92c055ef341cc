"""Tables of predictions to metrics with intervals, figures and reports."""

from busi_monai.evaluation.calibration import (
    calibrate_bundle,
    cross_fitted_probabilities,
    fit_operating_points,
)
from busi_monai.evaluation.consistency import consistent_table
from busi_monai.evaluation.figures import write_figures
from busi_monai.evaluation.measures import (
    ResampledFigure,
    evaluate_predictions,
    figure_value,
    resampled_figures,
)
from busi_monai.evaluation.recomputation import evaluate_table
from busi_monai.evaluation.report import TITLES, MetricsReport, report_markdown, write_evaluation
from busi_monai.evaluation.resampling import group_weights, percentile_interval
from busi_monai.evaluation.tables import (
    read_predictions,
    row_groups,
    table_classes,
    usable_rows,
    with_numbers,
)

__all__ = [
    "TITLES",
    "MetricsReport",
    "ResampledFigure",
    "calibrate_bundle",
    "consistent_table",
    "cross_fitted_probabilities",
    "evaluate_predictions",
    "evaluate_table",
    "figure_value",
    "fit_operating_points",
    "group_weights",
    "percentile_interval",
    "read_predictions",
    "report_markdown",
    "resampled_figures",
    "row_groups",
    "table_classes",
    "usable_rows",
    "with_numbers",
    "write_evaluation",
    "write_figures",
]
