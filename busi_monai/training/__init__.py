"""What the bundle configurations name: loss, batches, autocast, handlers, run folders."""

from __future__ import annotations

from busi_monai.bundle.training_images import (
    read_training_images,
    seen_in_training,
    write_training_images,
)
from busi_monai.bundle.workflow import bundle_root_of_config
from busi_monai.networks.autocast import AutocastInferer
from busi_monai.training.assembly import assemble_stages
from busi_monai.training.averaging import ModelEma, UpdateEma
from busi_monai.training.checkpoints import RunCheckpoint
from busi_monai.training.data import (
    BALANCES,
    cached_dataset,
    class_weights,
    datalist_hashes,
    datalist_provenance,
    load_items,
    training_items,
    training_sampler,
    training_transforms,
)
from busi_monai.training.distributed import distributed_sampler, handlers_of_rank
from busi_monai.training.history import HISTORY_COLUMNS, History, draw_history
from busi_monai.training.initial_run import InitialRun, find_initial_run
from busi_monai.training.losses import LOSSES, MultiTaskLoss
from busi_monai.training.mixing import MixedBatches, make_prepare_batch
from busi_monai.training.reproducibility import EpochSeed
from busi_monai.training.run_folder import RunFolder
from busi_monai.training.runs import check_keys, parse_overrides, run_evaluation, train_bundle
from busi_monai.training.schedules import (
    OPTIMIZERS,
    SCHEDULES,
    make_optimizer,
    make_schedule,
    schedule_handler,
)
from busi_monai.training.scores import (
    TrainingScores,
    ValidationScores,
    iteration_loss,
    selection_score,
)
from busi_monai.training.stages import STAGES, is_staged, train_stages
from busi_monai.training.tensorboard import ImageTriplets
from busi_monai.training.terminal import TerminalProgress
from busi_monai.transforms import prepare_batch, prepare_batch_with_lesion

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
    "bundle_root_of_config",
    "cached_dataset",
    "check_keys",
    "class_weights",
    "datalist_hashes",
    "datalist_provenance",
    "distributed_sampler",
    "draw_history",
    "find_initial_run",
    "handlers_of_rank",
    "is_staged",
    "iteration_loss",
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
    "train_bundle",
    "train_stages",
    "training_items",
    "training_sampler",
    "training_transforms",
    "write_training_images",
]
