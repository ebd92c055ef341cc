"""What configurations of existing runs name here, and lies in other rooms now."""

from busi_monai.bundle.training_images import read_training_images, seen_in_training
from busi_monai.bundle.workflow import bundle_root_of_config
from busi_monai.networks.autocast import AutocastInferer
from busi_monai.transforms import prepare_batch, prepare_batch_with_lesion

__all__ = [
    "AutocastInferer",
    "bundle_root_of_config",
    "prepare_batch",
    "prepare_batch_with_lesion",
    "read_training_images",
    "seen_in_training",
]
