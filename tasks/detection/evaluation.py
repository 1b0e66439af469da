"""Box and mask AP by detectron2's COCOEvaluator on pycocotools, as an `Evaluator`. Knows nothing of training.

AP is COCO's: the mean over classes and IoU 0.50:0.95, up to 100 detections an image. A model that detects nothing has
AP 0, which is what pycocotools computes for it (detectron2 prints nan because it does not ask). NaN remains where the
metric is not defined: for a size range without objects.
"""

from __future__ import annotations

import contextlib
import copy
import io
import uuid
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from tasks.base import Evaluator
from tasks.detection.data import CocoSplit

_KINDS = {"bbox": "box", "segm": "mask"}


class DetectionEvaluator(Evaluator):
    """Metrics ``{box,mask}_{ap,ap50,ap75,aps,apm,apl}`` in per cent.

    Args:
        split: the validation json.
        image_ids: the images that are evaluated; objects of others do not count as missed.
        with_masks: also mask AP.
    """

    def __init__(self, split: CocoSplit, image_ids: Sequence[int], *, with_masks: bool = True) -> None:
        self.image_ids = list(image_ids)
        self.kinds = ("bbox", "segm") if with_masks else ("bbox",)
        self._coco = _coco_evaluator(split, self.kinds)
        self._coco.reset()

    @torch.no_grad()
    def update(self, model: nn.Module, batch: list[dict[str, Any]]) -> None:
        """Predicts a batch and keeps boxes in the original image's pixels, and masks as run lengths."""
        self._coco.process(batch, model(batch))

    def results(self) -> list[Any]:
        """One item an image: ``{"image_id": …, "instances": [COCO results with class numbers 0..K-1]}``."""
        return self._coco._predictions

    def metrics(self, results: list[Any]) -> dict[str, float]:
        """AP over `image_ids`. `results` in any order."""
        ordered = sorted(results, key=lambda result: result["image_id"])  # ties of scores are broken by order
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; stdout is for results
            if any(result["instances"] for result in ordered):
                self._coco._predictions = copy.deepcopy(ordered)  # evaluate() renumbers the classes in place
                tables = self._coco.evaluate(img_ids=self.image_ids)
            else:
                tables = {kind: self._nothing_detected(kind) for kind in self.kinds}
        return {
            f"{_KINDS[kind]}_{name.lower()}": float(tables[kind][name])
            for kind in self.kinds
            for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")
        }

    def _nothing_detected(self, kind: str) -> dict[str, float]:
        """What `COCOEvaluator` would say if it let pycocotools compute on an empty list."""
        truth, empty = self._coco._coco_api, COCO()
        empty.dataset = {**truth.dataset, "annotations": []}
        empty.createIndex()
        evaluation = COCOeval(truth, empty, kind)
        evaluation.params.imgIds = self.image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return self._coco._derive_coco_results(evaluation, kind)


def _coco_evaluator(split: CocoSplit, kinds: Sequence[str]) -> COCOEvaluator:
    """detectron2's evaluator, which finds json and classes in a global catalogue: under a name that goes again."""
    name = f"coco-{uuid.uuid4()}"
    try:
        MetadataCatalog.get(name).set(
            json_file=str(split.json),
            thing_classes=list(split.classes),
            thing_dataset_id_to_contiguous_id={category: i for i, category in enumerate(split.category_ids)},
        )
        # What several processes predicted is gathered by the engine; the fast variant is not the official metric.
        return COCOEvaluator(name, tasks=tuple(kinds), distributed=False, use_fast_impl=False)
    finally:
        MetadataCatalog.remove(name)
