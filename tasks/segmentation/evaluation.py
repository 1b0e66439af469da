"""mIoU by mmseg's `IoUMetric`, image by image: any split over processes gives the same figures. No model here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.errors import UserError
from tasks.base import Evaluator
from tasks.datasets.decoding import WHITE
from tasks.segmentation.folders import IGNORE
from tasks.segmentation.mm import IoUMetric
from tasks.segmentation.pictures import Picture, reduced, write_picture
from tasks.segmentation.reading import read_image


class SegmentationEvaluator(Evaluator):
    """mIoU, aAcc and mAcc in percent, and ``IoU.<class>`` of each class that occurs in a map or a prediction.

    Args:
        class_names: in order of label.
        drawn: paths of the validation images to draw.
        white: ``data.white_level``, for those.
    """

    def __init__(self, class_names: Sequence[str], drawn: Sequence[str] = (), white: int = WHITE) -> None:
        self.class_names = list(class_names)
        self.drawn, self.white = list(drawn), white
        self._results: list[Any] = []

    @torch.no_grad()
    def update(self, model: nn.Module, batch: Any) -> None:
        """Predicts a batch of `tasks.segmentation.model.Segmenter` and keeps its areas."""
        for sample in model(batch):
            self.add(sample.pred_sem_seg.data.squeeze(0), sample.gt_sem_seg.data.squeeze(0), sample.get("img_path", ""))

    def add(self, prediction: Tensor, label: Tensor, image: str = "") -> None:
        """Keeps the areas of an (H, W) prediction against an (H, W) map of classes, 255 where there is none."""
        areas = IoUMetric.intersect_and_union(prediction, label.to(prediction), len(self.class_names), IGNORE)
        self._results.append(torch.stack(areas).long().cpu().numpy())
        if image in self.drawn:
            self._results.append(Picture(image, *(reduced(v.cpu().numpy()) for v in (label, prediction))))

    def results(self) -> list[Any]:
        """One (4, classes) int64 array an image: pixels of intersection, union, prediction and map; a `Picture` if drawn."""
        return self._results

    def metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics of the areas summed over all images, as mmseg takes them.

        Summed as integers: mmseg's own float32 sums depend on the order once they pass 2**24 pixels.
        """
        areas = [result for result in results if not isinstance(result, Picture)]
        total = torch.from_numpy(np.sum(areas, axis=0, dtype=np.int64)).double()
        if not total[3].any():
            raise UserError(
                "no pixel of the validation maps is labelled: check segmentation.reduce_zero_label and the maps"
            )
        values = IoUMetric.total_area_to_metrics(*total)
        metrics = {
            "mIoU": 100 * float(np.nanmean(values["IoU"])),
            "aAcc": 100 * float(values["aAcc"]),
            "mAcc": 100 * float(np.nanmean(values["Acc"])),
        }
        for name, iou in zip(self.class_names, values["IoU"], strict=True):
            if not np.isnan(iou):
                metrics[f"IoU.{name}"] = 100 * float(iou)
        return metrics

    def write(self, results: list[Any], folder: Path) -> None:
        """``NN_<image>.png`` of each image drawn: photograph, map and prediction."""
        for picture in (result for result in results if isinstance(result, Picture)):
            name = f"{self.drawn.index(picture.image):02d}_{Path(picture.image).stem}.png"
            write_picture(picture, read_image(picture.image, white=self.white), self.class_names, folder / name)
