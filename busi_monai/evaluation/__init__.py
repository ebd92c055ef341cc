"""Tables of predictions to metrics with intervals, figures and reports."""

from busi_monai.evaluation.figures import write_figures
from busi_monai.evaluation.measures import evaluate_predictions, figure_value
from busi_monai.evaluation.report import MetricsReport, report_markdown, write_evaluation
from busi_monai.evaluation.tables import read_predictions, table_classes

__all__ = [
    "MetricsReport",
    "evaluate_predictions",
    "figure_value",
    "read_predictions",
    "report_markdown",
    "table_classes",
    "write_evaluation",
    "write_figures",
]
