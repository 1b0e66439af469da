"""The evaluator says what pycocotools says, whoever predicted which image."""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.structures import Boxes, Instances
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from tasks.detection.data import CocoSplit, Record, read_split
from tasks.detection.evaluation import DetectionEvaluator

Outputs = dict[int, Instances]
NAMES = ("ap", "ap50", "ap75", "aps", "apm", "apl", "ar1", "ar10", "ar100", "ars", "arm", "arl")


def random_predictions(split: CocoSplit, seed: int = 0) -> Outputs:
    """For each image its objects, found roughly; again, under random classes; and two that are not there."""
    rng = np.random.default_rng(seed)
    outputs = {}
    for record in split.records:
        instances = Instances((40, 48))
        true = [a["bbox"] for a in record["annotations"]]
        boxes = np.array([*true, *true, [3, 3, 10, 12], [20, 8, 20, 20]], dtype=float)
        boxes += rng.normal(scale=1.0, size=boxes.shape)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float).clamp(min=0))
        instances.scores = torch.tensor(rng.random(len(boxes)), dtype=torch.float)
        classes = [a["category_id"] for a in record["annotations"]]
        others = rng.integers(0, 3, len(classes) + 2)
        instances.pred_classes = torch.tensor([*classes, *others], dtype=torch.long)
        masks = torch.zeros(len(boxes), 40, 48, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().astype(int), strict=True):
            mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
        instances.pred_masks = masks
        outputs[record["image_id"]] = instances
    return outputs


def truth(split: CocoSplit) -> Outputs:
    outputs = {}
    for record in split.records:
        instances = Instances((40, 48))
        boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float))
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]], dtype=torch.long)
        masks = torch.zeros(len(boxes), 40, 48, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        instances.pred_masks = masks
        outputs[record["image_id"]] = instances
    return outputs


def raw_pycocotools(split: CocoSplit, outputs: Outputs, kind: str, image_ids: list[int]) -> list[float]:
    """The metric without detectron2 and without us."""
    found = []
    for image_id, instances in outputs.items():
        for i in range(len(instances)):
            x0, y0, x1, y1 = instances.pred_boxes.tensor[i].tolist()
            each: dict[str, Any] = {
                "image_id": image_id,
                "category_id": split.category_ids[int(instances.pred_classes[i])],
                "score": float(instances.scores[i]),
            }
            if kind == "bbox":
                each["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            else:
                each["segmentation"] = run_length.encode(np.asfortranarray(instances.pred_masks[i].numpy(), np.uint8))
            found.append(each)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(split.json))
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * s if s >= 0 else math.nan for s in evaluation.stats]


def predict(evaluator: DetectionEvaluator, outputs: Outputs, image_ids: list[int]) -> list[Any]:
    """Feeds the evaluator as the engine does, with a model that knows its answers."""

    def model(batch: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        return [{"instances": outputs[each["image_id"]]} for each in batch]

    for start in range(0, len(image_ids), 2):
        evaluator.update(cast(nn.Module, model), [{"image_id": i} for i in image_ids[start : start + 2]])
    return evaluator.results()


def chosen(split: CocoSplit, ids: list[int]) -> list[Record]:
    return [record for record in split.records if record["image_id"] in ids]


def all_ids(split: CocoSplit) -> list[int]:
    return [record["image_id"] for record in split.records]


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_raw_pycocotools(coco: Path, seed: int) -> None:
    split = read_split(coco, "val")
    ids, outputs = all_ids(split), random_predictions(split, seed)
    evaluator = DetectionEvaluator(split, chosen(split, ids))
    metrics = evaluator.metrics(predict(evaluator, outputs, ids))
    assert 0 < metrics["box_ap"] < 100
    assert 0 < metrics["mask_ap"] < 100
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        wanted = raw_pycocotools(split, outputs, kind, ids)
        assert [metrics[f"{prefix}_{name}"] for name in NAMES] == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_the_truth_has_100(coco: Path) -> None:
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records)
    metrics = evaluator.metrics(predict(evaluator, truth(split), all_ids(split)))
    assert metrics["box_ap"] == pytest.approx(100)
    assert metrics["mask_ap"] == pytest.approx(100)
    assert math.isnan(metrics["box_apl"])  # no object is that large


def test_shards_of_several_processes_give_the_same_metrics_as_one(coco: Path) -> None:
    split = read_split(coco, "val")
    ids, outputs = all_ids(split), random_predictions(split)
    assert len(ids) % 2 == 1
    whole = DetectionEvaluator(split, chosen(split, ids))
    metrics = whole.metrics(predict(whole, outputs, ids))
    shards = [DetectionEvaluator(split, chosen(split, ids)) for _ in range(2)]
    results = [predict(shard, outputs, ids[rank::2]) for rank, shard in enumerate(shards)]
    gathered = [item for result in reversed(results) for item in result]
    assert len(gathered) == len(ids)
    assert shards[0].metrics(gathered) == pytest.approx(metrics, abs=0, nan_ok=True)
    assert shards[0].metrics(gathered) == pytest.approx(metrics, abs=0, nan_ok=True)  # and asking twice is harmless


def test_only_the_images_asked_for_count(coco: Path) -> None:
    split = read_split(coco, "val")
    outputs = truth(split)
    first = all_ids(split)[:2]
    evaluator = DetectionEvaluator(split, chosen(split, first))
    assert evaluator.metrics(predict(evaluator, outputs, first))["box_ap"] == pytest.approx(100)
    everything = DetectionEvaluator(split, split.records)
    assert everything.metrics(predict(everything, outputs, first))["box_ap"] < 70


def test_who_detects_nothing_has_zero(coco: Path) -> None:
    split = read_split(coco, "val")
    nothing = {image_id: instances[:0] for image_id, instances in truth(split).items()}
    evaluator = DetectionEvaluator(split, split.records)
    metrics = evaluator.metrics(predict(evaluator, nothing, all_ids(split)))
    assert metrics["box_ap"] == 0.0
    assert metrics["mask_ap50"] == 0.0
    assert math.isnan(metrics["mask_apl"])


def test_without_masks_there_are_box_metrics_only(coco: Path) -> None:
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records, with_masks=False)
    outputs = random_predictions(split)
    for instances in outputs.values():
        instances.remove("pred_masks")
    metrics = evaluator.metrics(predict(evaluator, outputs, all_ids(split)))
    assert set(metrics) == {f"box_{name}" for name in (*NAMES, "ap.two", "ap.seven", "ap.ninety")}


def test_it_prints_nothing(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records)
    evaluator.metrics(predict(evaluator, random_predictions(split), all_ids(split)))
    assert capsys.readouterr().out == ""
