from .calibration import (
    Reliability as Reliability,
)
from .calibration import (
    fit_temperature as fit_temperature,
)
from .calibration import (
    reliability as reliability,
)
from .calibration import (
    rescale_probabilities as rescale_probabilities,
)
from .classification import (
    average_precision as average_precision,
)
from .classification import (
    classification_scores as classification_scores,
)
from .classification import (
    confusion_matrix as confusion_matrix,
)
from .classification import (
    roc_auc as roc_auc,
)
from .classification import (
    weighted_mean as weighted_mean,
)
from .classification import (
    weighted_scores as weighted_scores,
)
from .operating_points import (
    negative_predictive_value as negative_predictive_value,
)
from .operating_points import (
    positive_predictive_value as positive_predictive_value,
)
from .operating_points import (
    sensitivity_threshold as sensitivity_threshold,
)
from .segmentation import (
    dice as dice,
)
from .segmentation import (
    lesion_box as lesion_box,
)
from .segmentation import (
    segmentation_scores as segmentation_scores,
)
