from .calibration import (
    calibrate_bundle as calibrate_bundle,
)
from .calibration import (
    cross_fitted_probabilities as cross_fitted_probabilities,
)
from .calibration import (
    fit_operating_points as fit_operating_points,
)
from .consistency import consistent_table as consistent_table
from .measures import (
    evaluate_predictions as evaluate_predictions,
)
from .measures import (
    figure_value as figure_value,
)
from .measures import (
    resampled_figures as resampled_figures,
)
from .recomputation import evaluate_table as evaluate_table
from .report import (
    TITLES as TITLES,
)
from .report import (
    MetricsReport as MetricsReport,
)
from .report import (
    report_markdown as report_markdown,
)
from .report import (
    write_evaluation as write_evaluation,
)
from .resampling import (
    ResampledFigure as ResampledFigure,
)
from .resampling import (
    group_weights as group_weights,
)
from .resampling import (
    mean_figure as mean_figure,
)
from .resampling import (
    percentile_interval as percentile_interval,
)
from .tables import (
    read_predictions as read_predictions,
)
from .tables import (
    row_groups as row_groups,
)
from .tables import (
    table_classes as table_classes,
)
from .tables import (
    usable_rows as usable_rows,
)
from .tables import (
    with_numbers as with_numbers,
)
