"""LVIS: what its json says beyond COCO's, and its AP over frequent, common and rare classes. Knows nothing of training.

An LVIS json is one whose images list ``neg_category_ids``, the classes known to be absent: a detection counts only where its
class is known to be present or absent (Gupta et al. 2019). The metric is that of the package ``lvis``, as in detectron2's
LVISEvaluator.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from backbones.errors import UserError
from tasks.detection.data import CocoSplit
from tasks.detection.evaluation import DetectionEvaluator, in_order, judged
from tasks.detection.ids import shown, whole

_MAX_DETECTIONS = 300  # an image; part of the metric
_KINDS = {"bbox": "box", "segm": "mask"}
_FIGURES = {
    **{name: name.lower() for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")},
    **{f"AR{size}@{_MAX_DETECTIONS}": f"ar{size or _MAX_DETECTIONS}" for size in ("", "s", "m", "l")},
}


def is_lvis(split: CocoSplit) -> bool:
    """Whether the json says, if of one image alone, which classes are known to be absent."""
    return any("neg_category_ids" in image for image in split.content.images)


def check_lvis(split: CocoSplit) -> None:
    """A `UserError` for an LVIS json that lacks what the metric needs: without it, detections count as in COCO."""
    known = set(split.category_ids)
    for image in split.content.images:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            name = f"{split.json}: image {image['id']} ({image['file_name']})"
            if not isinstance(image.get(key), list):
                raise UserError(f"{name} has no {key}, which LVIS's AP needs of every image: complete the json")
            if strange := [of for of in image[key] if not (isinstance(of, int) and of in known)]:
                raise UserError(f"{name} has {key} with {shown(strange[0])}, which is no category of the json")
    for category in split.content.categories:
        if category.get("frequency") not in ("r", "c", "f"):
            raise UserError(
                f"{split.json}: category {category['id']} has frequency={category.get('frequency')}: LVIS's AP needs r, c or f"
            )


def image_counts(split: CocoSplit) -> list[int]:
    """Training images of each class, in order of class: what the json says (LVIS's does), else counted."""
    categories = split.content.categories
    said = [whole(category.get("image_count")) for category in categories]
    if all(count is not None for count in said):
        return [count or 0 for count in said]
    seen = Counter(of for _, of in {(a["image_id"], a["category_id"]) for a in split.content.annotations})
    return [seen[category["id"]] for category in categories]


class LvisEvaluator(DetectionEvaluator):
    """Metrics ``{box,mask}_{ap,ap50,ap75,aps,apm,apl,apr,apc,apf,ar300,ars,arm,arl}`` in per cent.

    Up to 300 detections an image. NaN where a figure is not defined, as for a frequency group without objects.
    """

    def metrics(self, results: list[Any]) -> dict[str, float]:
        found = in_order(results)
        shown_images = {record["image_id"] for record in self.records}
        metrics: dict[str, float] = {}
        for kind in self.kinds:
            truth = _truth(self.split, shown_images, kind)
            figures = evaluate(truth, found, kind)
            metrics |= {f"{_KINDS[kind]}_{ours}": _per_cent(figures[theirs]) for theirs, ours in _FIGURES.items()}
        return metrics


def evaluate(truth: dict[str, Any], found: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """LVISEval's figures, in 0..1 (-1: not defined), on results in COCO's format. `kind` is ``bbox`` or ``segm``."""
    from lvis import LVISEval, LVISResults

    # With a box beside it a mask would be sorted into sizes by that (detectron2's LVISEvaluator).
    left_out = "segmentation" if kind == "bbox" else "bbox"
    plain = [{key: value for key, value in each.items() if key != left_out} for each in found]
    with _lvis_on_new_numpy():
        objects = _index(copy.deepcopy(truth))
        if plain:
            detections = LVISResults(objects, plain, max_dets=_MAX_DETECTIONS)
        else:
            detections = _index({**objects.dataset, "annotations": []}, LVISResults)
        evaluation = LVISEval(objects, detections, kind)
        evaluation.run()
    return dict(evaluation.get_results())


def _truth(split: CocoSplit, image_ids: set[Any], kind: str) -> dict[str, Any]:
    content = split.content
    return {
        "images": [image for image in content.images if image["id"] in image_ids],
        "annotations": [a for a in judged(content, kind) if a["image_id"] in image_ids],
        "categories": content.categories,
    }


def _index(dataset: dict[str, Any], kind: Any = None) -> Any:
    """An ``LVIS`` of a json that is read already."""
    from lvis import LVIS

    made = (kind or LVIS).__new__(kind or LVIS)
    made.logger, made.dataset = logging.getLogger("lvis"), dataset
    made._create_index()
    return made


@contextmanager
def _lvis_on_new_numpy() -> Iterator[None]:
    """The package, of 2020, says ``np.float``, which numpy has dropped, and warns of what is no mistake of ours."""
    logger, had = logging.getLogger("lvis"), hasattr(np, "float")
    level = logger.level
    logger.setLevel(logging.ERROR)
    if not had:
        np.float = float  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.setLevel(level)
        if not had:
            del np.float  # type: ignore[attr-defined]


def _per_cent(value: float) -> float:
    return 100 * float(value) if value >= 0 else math.nan
