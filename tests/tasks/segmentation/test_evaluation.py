"""The metric: what mmseg's `IoUMetric` says, whatever the split over processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmseg")

from backbones.errors import UserError
from tasks.segmentation.evaluation import SegmentationEvaluator
from tasks.segmentation.mm import IoUMetric

NAMES = [f"class {i}" for i in range(7)]
Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def random_pairs(seed: int, count: int = 5) -> Pairs:
    """Predictions half right, a tenth of the labels 255."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for i in range(count):
        label = torch.randint(0, len(NAMES), (9 + i, 11), generator=generator)
        noise = torch.randint(0, len(NAMES), label.shape, generator=generator)
        prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.5, label, noise)
        label[torch.rand(label.shape, generator=generator) < 0.1] = 255
        pairs.append((prediction, label))
    return pairs


def evaluated(pairs: Pairs) -> SegmentationEvaluator:
    evaluator = SegmentationEvaluator(NAMES)
    for prediction, label in pairs:
        evaluator.add(prediction, label)
    return evaluator


def mmseg_metrics(pairs: Pairs) -> dict[str, float]:
    metric = IoUMetric()
    metric.dataset_meta = {"classes": NAMES}
    for prediction, label in pairs:
        metric.process({}, [{"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": label[None]}}])
    return metric.compute_metrics(metric.results)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_metrics_equal_those_of_mmseg(seed: int) -> None:
    pairs = random_pairs(seed)
    ours = evaluated(pairs)
    metrics = ours.metrics(ours.results())
    for name, value in mmseg_metrics(pairs).items():
        assert metrics[name] == pytest.approx(value, abs=0.00501)  # mmseg rounds to two places


def test_two_processes_with_an_odd_number_of_images_give_the_figures_of_one() -> None:
    pairs = random_pairs(1, count=7)
    one, first, second = evaluated(pairs), evaluated(pairs[0::2]), evaluated(pairs[1::2])
    assert one.metrics(second.results() + first.results()) == one.metrics(one.results())


def test_large_areas_do_not_lose_pixels() -> None:
    """float32 cannot count past 2**24: a pixel more would be lost."""
    areas = np.zeros((4, len(NAMES)), dtype=np.int64)
    areas[:, 0] = 2**25
    one_wrong = np.zeros_like(areas)
    one_wrong[1:3, 0] = 1
    one_wrong[1:4:2, 1] = 1
    metrics = SegmentationEvaluator(NAMES).metrics([areas, one_wrong])
    assert metrics["IoU.class 0"] == pytest.approx(100 * 2**25 / (2**25 + 1), abs=1e-12)
    assert metrics["IoU.class 0"] < 100


def test_a_perfect_prediction_gets_100_and_ignored_pixels_do_not_count() -> None:
    label = torch.tensor([[0, 1, 255], [2, 255, 255]])
    prediction = torch.tensor([[0, 1, 5], [2, 6, 0]])
    evaluator = evaluated([(prediction, label)])
    metrics = evaluator.metrics(evaluator.results())
    assert metrics == {"mIoU": 100, "aAcc": 100, "mAcc": 100, **{f"IoU.class {i}": 100 for i in range(3)}}


def test_a_class_that_only_occurs_in_predictions_counts_as_zero() -> None:
    evaluator = evaluated([(torch.tensor([[0, 3]]), torch.tensor([[0, 0]]))])
    metrics = evaluator.metrics(evaluator.results())
    assert metrics["IoU.class 3"] == 0
    assert metrics["mIoU"] == pytest.approx(25)  # mean of 50 and 0
    assert "IoU.class 1" not in metrics


def test_maps_without_any_label_are_named() -> None:
    evaluator = evaluated([(torch.zeros(2, 2).long(), torch.full((2, 2), 255))])
    with pytest.raises(UserError, match="reduce_zero_label"):
        evaluator.metrics(evaluator.results())
