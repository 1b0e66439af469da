"""Box and mask AP by pycocotools, and the results file that it reads, as an `Evaluator`. Knows nothing of training.

The twelve figures are COCOeval's own, in per cent: AP is the mean over classes and IoU 0.50:0.95 with up to 100 detections an
image; AR the mean of the greatest recall with 1, 10, 100 detections. NaN where a figure is not defined: a size range or a class
without objects. A model that detects nothing has 0 (detectron2 prints nan because it does not ask pycocotools).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from backbones.atomic import write_text
from tasks.base import Evaluator
from tasks.datasets.decoding import WHITE
from tasks.detection.annotations import Content
from tasks.detection.data import CocoSplit, Record
from tasks.detection.ids import Id
from tasks.detection.objects import Annotation
from tasks.detection.pictures import write_pictures

RESULTS_FILE = "coco_instances_results.json"
NAMES = ("ap", "ap50", "ap75", "aps", "apm", "apl", "ar1", "ar10", "ar100", "ars", "arm", "arl")  # COCOeval.stats
_KINDS = {"bbox": "box", "segm": "mask"}
_EACH_CLASS_UP_TO = 400  # LVIS's 1,203 would fill records with what nobody reads


class DetectionEvaluator(Evaluator):
    """Metrics ``{box,mask}_{ap,…,arl}`` and, with several classes, ``{box,mask}_ap.CLASS``, in per cent.

    Args:
        split: the validation set.
        records: its images that are evaluated; objects of others do not count as missed.
        with_masks: also mask AP.
        pictures: how many images `write` draws, spread over `records`.
        white: ``data.white_level``, for those.
    """

    def __init__(
        self,
        split: CocoSplit,
        records: Sequence[Record],
        *,
        with_masks: bool = True,
        pictures: int = 0,
        white: int = WHITE,
    ) -> None:
        self.split, self.records, self.pictures, self.white = split, records, pictures, white
        self.kinds = ("bbox", "segm") if with_masks else ("bbox",)
        self._results: list[Any] = []

    @torch.no_grad()
    def update(self, model: nn.Module, batch: list[dict[str, Any]]) -> None:
        """Predicts a batch and keeps boxes in the original image's pixels, and masks as run lengths."""
        for image, output in zip(batch, model(batch), strict=True):
            found = instances_to_coco_json(output["instances"].to("cpu"), image["image_id"])
            for each in found:
                each["category_id"] = self.split.category_ids[each["category_id"]]
            self._results.append({"image_id": image["image_id"], "instances": found})

    def results(self) -> list[Any]:
        """One item an image: ``{"image_id": …, "instances": [objects in COCO's format for results]}``."""
        return self._results

    def metrics(self, results: list[Any]) -> dict[str, float]:
        """AP over `records`. `results` in any order."""
        found = in_order(results)
        metrics: dict[str, float] = {}
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; stdout is for results
            for kind in self.kinds:
                truth = _truth(self.split, kind)
                evaluation = evaluate(truth, found, kind, [record["image_id"] for record in self.records])
                metrics |= summary(evaluation, _KINDS[kind], self.split.classes)
        return metrics

    def write(self, results: list[Any], folder: Path) -> None:
        """The results file for COCO's tools, and pictures of truth beside prediction."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / RESULTS_FILE, json.dumps(with_file_ids(in_order(results), self.split.content.file_ids)))
        write_pictures(self.split, self.records, results, folder, self.pictures, self.white)


def in_order(results: list[Any]) -> list[dict[str, Any]]:
    """All objects, image by image: ties of scores are broken by order, whichever process saw what."""
    ordered = sorted(results, key=lambda result: result["image_id"])
    return [each for result in ordered for each in result["instances"]]


def with_file_ids(found: list[dict[str, Any]], old: Mapping[str, Mapping[int, Id]]) -> list[dict[str, Any]]:
    """Results under the json's own ids of images and categories, where ours are others."""
    keys = {"image_id": old.get("images", {}), "category_id": old.get("categories", {})}
    return [{**each, **{key: ids.get(each[key], each[key]) for key, ids in keys.items()}} for each in found]


def _truth(split: CocoSplit, kind: str) -> COCO:
    """The checked json as pycocotools has it; of masks without the objects that detectron2 leaves out for theirs."""
    content = split.content
    annotations = [dict(a) for a in judged(content, kind)]  # COCOeval writes into them
    return _coco(content.images, annotations, content.categories)


def judged(content: Content, kind: str) -> list[Annotation]:
    """The objects that count for ``bbox`` or ``segm``."""
    if kind == "bbox" or not content.maskless:
        return content.annotations
    return [a for a in content.annotations if a["id"] not in content.maskless]


def _coco(images: list[Any], annotations: list[Any], categories: list[Any]) -> COCO:
    coco = COCO()
    coco.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


def evaluate(truth: COCO, found: list[dict[str, Any]], kind: str, image_ids: Sequence[Any]) -> COCOeval:
    """COCOeval on results in COCO's format, run to its end. `kind` is ``bbox`` or ``segm``."""
    # loadRes takes the area from the box where there is one: masks are sorted into sizes by their own, as detectron2 does.
    left_out = "segmentation" if kind == "bbox" else "bbox"
    plain = [{key: value for key, value in each.items() if key != left_out} for each in found]
    detections = truth.loadRes(plain) if plain else _coco(truth.dataset["images"], [], truth.dataset["categories"])
    evaluation = COCOeval(truth, detections, kind)
    evaluation.params.imgIds = list(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def summary(evaluation: COCOeval, prefix: str, classes: Sequence[str]) -> dict[str, float]:
    """COCOeval's twelve figures and AP of each class, in per cent; -1, which stands for undefined, is NaN."""
    figures = {f"{prefix}_{name}": _per_cent(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
    if not 1 < len(classes) <= _EACH_CLASS_UP_TO:
        return figures
    precision = evaluation.eval["precision"]  # (IoU, recall, class, area range, detections)
    for name, number in _names(classes).items():
        defined = precision[:, :, number, 0, -1]
        defined = defined[defined > -1]
        figures[f"{prefix}_ap.{name}"] = _per_cent(np.mean(defined) if defined.size else -1)
    return figures


def _names(classes: Sequence[str]) -> dict[str, int]:
    """Class numbers by name; of two classes of one name the later bears its number."""
    names: dict[str, int] = {}
    for number, name in enumerate(classes):
        names[name if name not in names else f"{name} ({number})"] = number
    return names


def _per_cent(value: float) -> float:
    return 100 * float(value) if value >= 0 else math.nan
