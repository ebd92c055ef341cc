from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from sklearn.metrics import accuracy_score, roc_auc_score

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError
from busi_monai.metrics import dice
from busi_monai.training import (
    MultiTaskLoss,
    TrainingScores,
    ValidationScores,
    iteration_loss,
    prepare_batch,
)
from busi_monai.training.handlers import batch_dice
from busi_monai.training.scores import SELECTIONS


def masks(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 1, 8, 10, generator=generator) > 0.6).float()


def test_batch_dice_is_the_sum_of_the_images_dice() -> None:
    predicted, true = masks(4), masks(4, seed=1)
    total, lesions = batch_dice(predicted * 2 - 1, true)
    expected = [
        dice(p[0].numpy() > 0, t[0].numpy() > 0) for p, t in zip(predicted, true, strict=True)
    ]
    assert total.item() == pytest.approx(sum(expected))
    assert lesions == 4


def test_batch_dice_leaves_out_normals_and_unknown_masks() -> None:
    true = masks(3)
    true[1], true[2] = 0, -1
    total, lesions = batch_dice(torch.ones(3, 1, 8, 10), true)
    assert lesions == 1
    assert total.item() == pytest.approx(dice(np.ones((8, 10)) > 0, true[0, 0].numpy() > 0))


def test_batch_dice_takes_half_a_lesion_for_one() -> None:
    true, faint = masks(2), masks(2, seed=1)
    shared = 0.6 * true + 0.4 * faint
    assert batch_dice(faint * 2 - 1, shared) == batch_dice(faint * 2 - 1, true)
    assert batch_dice(true * 2 - 1, 0.4 * true)[1] == 0


def collected(
    probabilities: np.ndarray, labels: list[int], **options: object
) -> tuple[ValidationScores, dict[str, float]]:
    scores = ValidationScores(**options)
    for row, label in zip(probabilities, labels, strict=True):
        scores.update(({"class_label": label}, {"pred_cls": torch.tensor(row)}))
    return scores, scores.compute()


def test_class_figures_are_scikit_learns() -> None:
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    labels = [index % 3 for index in range(30)]
    _, figures = collected(probabilities, labels)
    assert figures["val_accuracy"] == accuracy_score(labels, probabilities.argmax(1))
    malignant = np.array(labels) == 2
    assert figures["val_auc_malignant"] == pytest.approx(
        roc_auc_score(malignant, probabilities[:, 2])
    )
    assert figures["val_auc_macro"] == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr")
    )


def test_dice_is_the_mean_over_images_at_native_size() -> None:
    scores, expected = ValidationScores(), []
    for index, (height, width) in enumerate([(20, 30), (9, 5), (12, 12)]):
        rng = np.random.default_rng(index)
        true, predicted = rng.random((2, height, width)) > 0.5
        if index == 2:
            true[:] = False
        expected.append(dice(predicted, true))
        item = {"native_label": torch.tensor(true[None].astype(np.uint8))}
        output = {"pred": torch.tensor(predicted.astype(np.uint8)), "pred_seg": torch.zeros(1)}
        scores.update((item, output))
    figures = scores.compute()
    assert figures["val_all_dice"] == pytest.approx(np.mean(expected))
    assert figures["val_lesion_dice"] == pytest.approx(np.mean(expected[:2]))


def test_unknown_masks_and_classes_are_not_measured() -> None:
    scores = ValidationScores()
    output = {"pred": torch.ones(4, 4), "pred_seg": torch.ones(1, 4, 4), "pred_cls": torch.ones(3)}
    scores.update(({"native_label": None, "class_label": -1}, output))
    assert scores.compute() == {}


def selected(figures: dict[str, float], select_by: str) -> float:
    return ValidationScores(select_by=select_by)._selecting(figures)


FIGURES = {
    "val_loss": 0.7,
    "val_lesion_dice": 0.5,
    "val_all_dice": 0.4,
    "val_accuracy": 0.9,
    "val_auc_malignant": 0.8,
    "val_auc_macro": 0.6,
}


def test_every_selection_is_higher_when_better() -> None:
    expected = {
        "score": 0.55,
        "loss": -0.7,
        "lesion_dice": 0.5,
        "all_dice": 0.4,
        "accuracy": 0.9,
        "auc_malignant": 0.8,
    }
    assert set(expected) == set(SELECTIONS)
    for name, value in expected.items():
        assert selected(FIGURES, name) == pytest.approx(value), name


def test_the_score_takes_the_heads_that_are_there() -> None:
    assert selected({"val_lesion_dice": 0.5, "val_loss": 1.0}, "score") == 0.5
    assert selected({"val_auc_macro": 0.6, "val_lesion_dice": float("nan")}, "score") == 0.6
    assert selected({"val_loss": 0.3}, "score") == -0.3


def test_an_undefined_figure_is_never_the_best() -> None:
    assert selected({"val_auc_malignant": float("nan")}, "auc_malignant") == -float("inf")


def test_a_figure_without_its_head_is_refused() -> None:
    with pytest.raises(InputError, match=r"'lesion_dice' cannot be computed.*accuracy"):
        selected({"val_accuracy": 0.5}, "lesion_dice")
    with pytest.raises(ValueError, match="select_by must be one of"):
        ValidationScores(select_by="f1")


def test_an_engine_is_left_with_every_figure_and_the_loss() -> None:
    loss = MultiTaskLoss(seg_weight=0.0, cls_weight=1.0)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1, 1])
    batches = [
        {"image": logits[:2], "class_label": labels[:2]},
        {"image": logits[2:], "class_label": labels[2:]},
    ]

    def postprocess(data: dict) -> dict:
        return {**data, "pred_cls": data["pred"]["cls"].softmax(0)}

    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=torch.nn.Identity(),
        inferer=lambda image, network: {"cls": image},
        prepare_batch=prepare_batch,
        postprocessing=postprocess,
        key_val_metric={"val_score": ValidationScores(loss, CLASSES, "accuracy")},
    )
    evaluator.run()
    metrics = evaluator.state.metrics
    assert metrics["val_accuracy"] == metrics["val_score"] == pytest.approx(2 / 3)
    assert metrics["val_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item()
    )


def test_training_figures_are_means_over_the_epochs_images() -> None:
    loss = SimpleNamespace(parts={})
    sizes, losses, right = [4, 2], [1.0, 4.0], [[1, 1, 1, 0], [0, 1]]

    def step(engine: Engine, index: int) -> dict:
        known = torch.tensor(right[index])
        loss.parts = {"cls": torch.tensor(losses[index] / 2)}
        return {
            "image": torch.zeros(sizes[index], 1, 2, 2),
            "label": {"cls": known},
            "pred": {"cls": torch.tensor([[0.0, 1.0]] * sizes[index])},
            "loss": torch.tensor(losses[index]),
        }

    trainer = Engine(step)
    TrainingScores(loss).attach(trainer)
    trainer.run([0, 1], max_epochs=2)
    metrics = trainer.state.metrics
    assert metrics["train_loss"] == pytest.approx((4 * 1.0 + 2 * 4.0) / 6)
    assert metrics["train_loss_cls"] == pytest.approx(metrics["train_loss"] / 2)
    assert metrics["train_accuracy"] == pytest.approx(4 / 6)
    assert "train_lesion_dice" not in metrics
    assert iteration_loss(trainer.state.output) == 4.0


def test_of_mixed_images_the_class_with_the_largest_share_counts() -> None:
    mixed = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1], [-1.0, -1.0]])

    def step(engine: Engine, index: int) -> dict:
        return {
            "image": torch.zeros(4, 1, 2, 2),
            "label": {"cls": mixed},
            "pred": {"cls": torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])},
            "loss": torch.tensor(1.0),
        }

    trainer = Engine(step)
    TrainingScores(SimpleNamespace(parts={})).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert trainer.state.metrics["train_accuracy"] == pytest.approx(2 / 3)
