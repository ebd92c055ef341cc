from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.losses.dice import DiceCELoss, DiceFocalLoss, DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import Tensor, nn

from busi_monai.training.losses import (
    CLASSIFICATION_LOSSES,
    EMPTY_MASKS,
    LOSSES,
    SEGMENTATION_LOSSES,
    ClassLoss,
    MaskLoss,
    MultiTaskLoss,
)

SIZE = 16

Batch = dict[str, Tensor]


@pytest.fixture
def outputs() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {
        "seg": torch.randn(4, 1, SIZE, SIZE, generator=generator, requires_grad=True),
        "cls": torch.randn(4, 3, generator=generator, requires_grad=True),
    }


@pytest.fixture
def targets() -> Batch:
    """Four lesions of different sizes."""
    mask = torch.zeros(4, 1, SIZE, SIZE)
    for index in range(4):
        mask[index, 0, 2 : 6 + index, 3:9] = 1
    return {"seg": mask, "cls": torch.tensor([0, 1, 2, 1])}


@pytest.mark.parametrize(
    ("name", "monai"),
    [
        ("dice_ce", DiceCELoss(sigmoid=True)),
        ("bce", nn.BCEWithLogitsLoss()),
        ("dice", DiceLoss(sigmoid=True)),
        ("focal", FocalLoss(gamma=2.0)),
        ("dice_focal", DiceFocalLoss(sigmoid=True)),
    ],
)
def test_mask_loss_is_monais_where_there_are_lesions(
    name: str, monai: nn.Module, outputs: Batch, targets: Batch
) -> None:
    found = MaskLoss(name)(outputs["seg"], targets["seg"])
    torch.testing.assert_close(found, monai(outputs["seg"], targets["seg"]))


def test_every_mask_loss_is_compared() -> None:
    assert set(SEGMENTATION_LOSSES) == {"dice_ce", "bce", "dice", "focal", "dice_focal"}
    assert {
        "segmentation": tuple(SEGMENTATION_LOSSES),
        "classification": CLASSIFICATION_LOSSES,
    } == LOSSES


def test_class_focal_is_monais(outputs: Batch, targets: Batch) -> None:
    monai = FocalLoss(gamma=2.0, use_softmax=True, reduction="none")
    one_hot = nn.functional.one_hot(targets["cls"], 3).float()
    expected = monai(outputs["cls"], one_hot).sum(1).mean()
    found = ClassLoss("focal")(outputs["cls"], targets["cls"])
    torch.testing.assert_close(found, expected)


@pytest.fixture
def soft() -> Tensor:
    """Probabilities of four images."""
    return torch.tensor([[0.7, 0.0, 0.3], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5], [0.0, 0.4, 0.6]])


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(
    weights: list[float] | None, smoothing: float, outputs: Batch, targets: Batch, soft: Tensor
) -> None:
    given = None if weights is None else torch.tensor(weights)
    ours = ClassLoss("ce", class_weights=weights, label_smoothing=smoothing)
    torchs = nn.CrossEntropyLoss(given, label_smoothing=smoothing)
    for truth in (targets["cls"], soft):
        torch.testing.assert_close(ours(outputs["cls"], truth), torchs(outputs["cls"], truth))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"name": "focal"}])
def test_certain_probabilities_are_integer_labels(
    options: dict[str, object], outputs: Batch, targets: Batch
) -> None:
    loss = ClassLoss(**options)  # type: ignore[arg-type]
    certain = nn.functional.one_hot(targets["cls"], 3).float()
    torch.testing.assert_close(loss(outputs["cls"], certain), loss(outputs["cls"], targets["cls"]))


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0]])
def test_the_loss_of_probabilities_is_the_mean_over_the_classes(
    name: str, weights: list[float] | None, outputs: Batch, soft: Tensor
) -> None:
    loss = ClassLoss(name, class_weights=weights)
    expected = torch.zeros(())
    for logits, probabilities in zip(outputs["cls"].detach(), soft, strict=True):
        for label, probability in enumerate(probabilities):
            alone = ClassLoss(name)(logits[None], torch.tensor([label]))
            weight = 1.0 if weights is None else weights[label]
            expected = expected + probability * weight * alone / 4
    torch.testing.assert_close(loss(outputs["cls"].detach(), soft), expected)


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"classification": "focal"}])
def test_missing_probabilities_count_nowhere(
    options: dict[str, object], outputs: Batch, targets: Batch, soft: Tensor
) -> None:
    loss = MultiTaskLoss(seg_weight=0, cls_weight=1, class_weights=[1, 2, 3], **options)
    kept = [1, 3]
    expected = loss({"cls": outputs["cls"][kept]}, {"cls": soft[kept]})
    soft[[0, 2]] = -1
    found = loss(outputs, {**targets, "cls": soft})
    torch.testing.assert_close(found, expected)
    found.backward()
    assert not outputs["cls"].grad[[0, 2]].any()
    assert outputs["cls"].grad[kept].any()
    assert loss(outputs, {"cls": torch.full_like(soft, -1)}).item() == 0


def test_weighted_sum_and_parts(outputs: Batch, targets: Batch) -> None:
    loss = MultiTaskLoss()
    total = loss(outputs, targets)
    torch.testing.assert_close(total, 0.85 * loss.parts["seg"] + 0.15 * loss.parts["cls"])
    torch.testing.assert_close(loss.parts["seg"], MaskLoss()(outputs["seg"], targets["seg"]))
    assert total.requires_grad
    assert not any(part.requires_grad for part in loss.parts.values())


@pytest.mark.parametrize("off", ["seg", "cls"])
def test_weight_0_turns_a_head_off(off: str, outputs: Batch, targets: Batch) -> None:
    loss = MultiTaskLoss(**{f"{off}_weight": 0.0})
    both = loss(outputs, targets)
    alone = loss({key: value for key, value in outputs.items() if key != off}, targets)
    assert off not in loss.parts
    torch.testing.assert_close(both, alone)
    both.backward()
    assert outputs[off].grad is None


def test_a_head_that_is_on_must_be_there(outputs: Batch, targets: Batch) -> None:
    del outputs["seg"]
    with pytest.raises(ValueError, match=r"gives no 'seg' \(it gives cls\).*set seg_weight=0"):
        MultiTaskLoss()(outputs, targets)


@pytest.mark.parametrize("classification", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("segmentation", SEGMENTATION_LOSSES)
def test_missing_truth_counts_nowhere(
    segmentation: str, classification: str, outputs: Batch, targets: Batch
) -> None:
    loss = MultiTaskLoss(
        segmentation=segmentation, classification=classification, class_weights=[1, 2, 3]
    )
    kept = [1, 3]
    expected = loss(
        {key: value[kept] for key, value in outputs.items()},
        {key: value[kept] for key, value in targets.items()},
    )
    targets["seg"][[0, 2]] = -1
    targets["cls"][[0, 2]] = -1
    found = loss(outputs, targets)
    torch.testing.assert_close(found, expected)
    found.backward()
    for logits in outputs.values():
        assert not logits.grad[[0, 2]].any()


@pytest.mark.parametrize("absent", [True, False])
def test_a_batch_without_any_truth(absent: bool, outputs: Batch, targets: Batch) -> None:
    missing = {} if absent else {key: torch.full_like(value, -1) for key, value in targets.items()}
    found = MultiTaskLoss(label_smoothing=0.1)(outputs, missing)
    found.backward()
    assert found.item() == 0
    assert not outputs["seg"].grad.any()
    assert not outputs["cls"].grad.any()


class TestEmptyMasks:
    mask = torch.zeros(1, 1, SIZE, SIZE)

    def loss(self, logit: float, pixels: int = SIZE * SIZE, **options: str) -> float:
        logits = torch.full((1, SIZE * SIZE), -20.0)
        logits[:, :pixels] = logit
        dice = MaskLoss("dice", **options)
        return dice(logits.reshape(1, 1, SIZE, SIZE), self.mask).item()

    def test_empty_prediction_costs_nothing(self) -> None:
        assert self.loss(-10.0) < 0.01

    def test_false_positives_cost_more_the_more_there_are(self) -> None:
        costs = [self.loss(20.0, pixels) for pixels in (1, 3, 30, 256)]
        assert costs == sorted(costs)
        assert costs[1] == pytest.approx(3 / (3 + 2.56), abs=1e-4)
        assert costs[-1] > 0.98

    def test_an_undecided_prediction_is_pushed_down(self) -> None:
        logits = torch.zeros(1, 1, SIZE, SIZE, requires_grad=True)
        MaskLoss("dice")(logits, self.mask).backward()
        assert (logits.grad > 1e-6).all()

    def test_other_rules(self) -> None:
        for logit in (-10.0, 10.0):  # MONAI's smoothing is a constant
            assert self.loss(logit, empty_masks="smooth") == pytest.approx(1, abs=0.01)
        assert self.loss(10.0, empty_masks="leave_out") == 0

    @pytest.mark.parametrize("empty_masks", EMPTY_MASKS)
    def test_lesions_are_not_affected(
        self, empty_masks: str, outputs: Batch, targets: Batch
    ) -> None:
        torch.testing.assert_close(
            MaskLoss("dice", empty_masks=empty_masks)(outputs["seg"], targets["seg"]),
            DiceLoss(sigmoid=True)(outputs["seg"], targets["seg"]),
        )


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_soft_masks_give_finite_losses_and_gradients(
    name: str, share: float, outputs: Batch, targets: Batch
) -> None:
    mask = share * targets["seg"] + (1 - share) * targets["seg"].roll(1, 0)
    MaskLoss(name)(outputs["seg"], mask).backward()
    gradient = outputs["seg"].grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_pixelwise_loss_of_a_mixture_is_the_mixture_of_losses(
    share: float, outputs: Batch, targets: Batch
) -> None:
    loss, one, other = MaskLoss("bce"), targets["seg"], targets["seg"].roll(1, 0)
    expected = share * loss(outputs["seg"], one) + (1 - share) * loss(outputs["seg"], other)
    torch.testing.assert_close(loss(outputs["seg"], share * one + (1 - share) * other), expected)


@pytest.mark.parametrize(("share", "empty"), [(0.01, True), (0.49, True), (0.5, False), (1, False)])
def test_a_mask_below_a_half_everywhere_is_an_empty_one(
    share: float, empty: bool, outputs: Batch, targets: Batch
) -> None:
    dice = MaskLoss("dice")
    found = dice(outputs["seg"], share * targets["seg"])
    as_normal = dice(outputs["seg"], torch.zeros_like(targets["seg"]))
    as_lesion = DiceLoss(sigmoid=True)(outputs["seg"], share * targets["seg"])
    torch.testing.assert_close(found, as_normal if empty else as_lesion)


def test_a_small_lesion_is_none_the_less_one_at_a_coarse_level(outputs: Batch) -> None:
    mask = torch.zeros(4, 1, SIZE, SIZE)
    mask[:, :, 3, 3] = 1
    coarse = torch.randn(4, 1, SIZE // 4, SIZE // 4, generator=torch.Generator().manual_seed(1))
    loss = MultiTaskLoss(cls_weight=0, segmentation="dice")
    loss({"seg": outputs["seg"], "seg_aux1": coarse}, {"seg": mask})
    monai = DiceLoss(sigmoid=True)
    smaller = nn.functional.avg_pool2d(mask, 4)
    assert smaller.max() < 0.1
    expected = (monai(outputs["seg"], mask) + 0.5 * monai(coarse, smaller)) / 1.5
    torch.testing.assert_close(loss.parts["seg"], expected.detach())


def test_deep_supervision_weighs_coarser_outputs_less(outputs: Batch, targets: Batch) -> None:
    coarse = {
        f"seg_aux{level}": torch.randn(4, 1, SIZE // 2**level, SIZE // 2**level) for level in (1, 2)
    }
    loss = MultiTaskLoss(cls_weight=0, segmentation="bce")
    loss({**outputs, **coarse}, targets)
    terms = [
        nn.functional.binary_cross_entropy_with_logits(
            logits, nn.functional.avg_pool2d(targets["seg"], SIZE // logits.shape[-1])
        )
        for logits in (outputs["seg"], coarse["seg_aux1"], coarse["seg_aux2"])
    ]
    expected = (terms[0] + terms[1] / 2 + terms[2] / 4) / 1.75
    torch.testing.assert_close(loss.parts["seg"], expected.detach())


def test_missing_masks_are_missing_at_every_level(outputs: Batch, targets: Batch) -> None:
    aux = torch.randn(4, 1, 8, 8, requires_grad=True)
    targets["seg"][0] = -1
    MultiTaskLoss()({**outputs, "seg_aux1": aux}, targets).backward()
    assert not aux.grad[0].any()
    assert aux.grad[1:].any()


def test_float32_whatever_the_autocast(outputs: Batch, targets: Batch) -> None:
    half = {key: value.detach().bfloat16() for key, value in outputs.items()}
    expected = MultiTaskLoss()({key: value.float() for key, value in half.items()}, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = MultiTaskLoss()(half, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_metatensors_are_taken_as_plain_ones(outputs: Batch, targets: Batch) -> None:
    loss = MultiTaskLoss()
    meta = loss(
        {key: MetaTensor(value) for key, value in outputs.items()},
        {key: MetaTensor(value) for key, value in targets.items()},
    )
    assert type(meta) is Tensor
    assert {type(part) for part in loss.parts.values()} == {Tensor}
    torch.testing.assert_close(meta, loss(outputs, targets))


def test_masks_may_be_integers(outputs: Batch, targets: Batch) -> None:
    loss = MultiTaskLoss()
    expected = loss(outputs, targets)
    targets["seg"] = targets["seg"].to(torch.int8)
    targets["cls"] = targets["cls"][:, None].int()
    torch.testing.assert_close(loss(outputs, targets), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seg_weight": -1}, "must be at least 0"),
        ({"seg_weight": 0, "cls_weight": 0}, "not both 0"),
        ({"segmentation": "tversky"}, "segmentation must be one of dice_ce, .* got 'tversky'"),
        ({"classification": "hinge"}, "classification must be one of ce, focal, got 'hinge'"),
        ({"empty_masks": "ignore"}, "empty_masks must be one of false_positives"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), got 1.0"),
        ({"label_smoothing": 0.1, "classification": "focal"}, "belongs to the loss 'ce'"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"seg": torch.zeros(4, 1, 8, 8)}, r"shape \(4, 1, 16, 16\), got \(4, 1, 8, 8\)"),
        ({"cls": torch.zeros(2)}, "expected 4 labels, got 2"),
        ({"cls": torch.zeros(4, 2)}, r"probabilities of shape \(4, 3\), got .* \(4, 2\)"),
        ({"cls": torch.zeros(4, 3).long()}, "floating-point probabilities .* got torch.int64"),
    ],
)
def test_wrong_shapes(truth: Batch, message: str, outputs: Batch, targets: Batch) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskLoss()(outputs, {**targets, **truth})


def test_a_weight_for_each_class(outputs: Batch, targets: Batch) -> None:
    with pytest.raises(ValueError, match="class_weights must have 3 entries"):
        MultiTaskLoss(class_weights=[1.0, 2.0])(outputs, targets)
