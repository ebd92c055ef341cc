from .comparison import (
    Comparison as Comparison,
)
from .comparison import (
    compare_systems as compare_systems,
)
from .comparison import (
    paired_differences as paired_differences,
)
from .comparison_report import write_comparison as write_comparison
from .cross_validation import cross_validate as cross_validate
from .systems import System as System
from .systems import read_system as read_system
from .tuning import TuningPlan as TuningPlan
from .tuning import tune as tune
