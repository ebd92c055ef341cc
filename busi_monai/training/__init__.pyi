from .assembly import assemble_stages
from .checkpoints import ModelEma, RunCheckpoint
from .data import (
    cached_dataset,
    class_weights,
    datalist_hashes,
    datalist_provenance,
    load_items,
    training_items,
    training_transforms,
)
from .distributed import (
    batch_share,
    join_processes,
    leave_processes,
    share_gradients,
    summary_writer,
    validation_share,
)
from .earlier_names import (
    AutocastInferer,
    bundle_root_of_config,
    prepare_batch,
    prepare_batch_with_lesion,
    read_training_images,
    seen_in_training,
)
from .handlers import (
    HISTORY_COLUMNS,
    EpochSeed,
    History,
    ImageTriplets,
    TerminalProgress,
    TrainingScores,
    UpdateEma,
    handlers_of_rank,
    iteration_loss,
    schedule_handler,
    selection_score,
)
from .initial_run import InitialRun, find_initial_run
from .losses import LOSSES, MultiTaskLoss
from .mixing import MixedBatches, make_prepare_batch
from .run_folder import RunFolder
from .runs import check_keys, parse_overrides, run_evaluation
from .sampling import BALANCES, training_sampler
from .schedules import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from .scores import ValidationScores, draw_history
from .stages import STAGES, train_bundle

__all__ = [
    "BALANCES",
    "HISTORY_COLUMNS",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "STAGES",
    "AutocastInferer",
    "EpochSeed",
    "History",
    "ImageTriplets",
    "InitialRun",
    "MixedBatches",
    "ModelEma",
    "MultiTaskLoss",
    "RunCheckpoint",
    "RunFolder",
    "TerminalProgress",
    "TrainingScores",
    "UpdateEma",
    "ValidationScores",
    "assemble_stages",
    "batch_share",
    "bundle_root_of_config",
    "cached_dataset",
    "check_keys",
    "class_weights",
    "datalist_hashes",
    "datalist_provenance",
    "draw_history",
    "find_initial_run",
    "handlers_of_rank",
    "iteration_loss",
    "join_processes",
    "leave_processes",
    "load_items",
    "make_optimizer",
    "make_prepare_batch",
    "make_schedule",
    "parse_overrides",
    "prepare_batch",
    "prepare_batch_with_lesion",
    "read_training_images",
    "run_evaluation",
    "schedule_handler",
    "seen_in_training",
    "selection_score",
    "share_gradients",
    "summary_writer",
    "train_bundle",
    "training_items",
    "training_sampler",
    "training_transforms",
    "validation_share",
]
