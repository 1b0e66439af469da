"""What a detection run leaves for people and programs: COCO's results file, and pictures of truth beside prediction."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tasks.detection.data import CocoSplit, read_split
from tasks.detection.evaluation import NAMES, RESULTS_FILE, DetectionEvaluator
from tasks.detection.pictures import FALLBACK, choose
from tests.conftest import data_folder

from .conftest import edit_json
from .test_evaluation import all_ids, predict, random_predictions, truth


def figures_of_file(truth_json: Path, results: list[dict[str, Any]], kind: str) -> COCOeval:
    """What anybody with pycocotools makes of the file."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth_json))
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def check_against_file(evaluator: DetectionEvaluator, results: list[Any], folder: Path, split: CocoSplit) -> None:
    metrics = evaluator.metrics(results)
    evaluator.write(results, folder)
    found = json.loads((folder / RESULTS_FILE).read_text())
    for each in found:
        assert each["category_id"] in split.category_ids
        assert isinstance(each["segmentation"]["counts"], str)
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        # loadRes takes a mask's area from the box, where there is one beside it
        loaded = found if kind == "bbox" else [{k: v for k, v in each.items() if k != "bbox"} for each in found]
        evaluation = figures_of_file(split.json, loaded, kind)
        wanted = [100 * s if s >= 0 else np.nan for s in evaluation.stats]
        assert [metrics[f"{prefix}_{name}"] for name in NAMES] == pytest.approx(wanted, abs=1e-9, nan_ok=True)
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        for i, name in enumerate(split.classes):
            defined = precision[:, :, i][precision[:, :, i] > -1]
            ap = 100 * defined.mean() if defined.size else np.nan
            assert metrics[f"{prefix}_ap.{name}"] == pytest.approx(ap, abs=1e-9, nan_ok=True)


def test_the_file_loads_into_pycocotools_with_the_records_figures(coco: Path, tmp_path: Path) -> None:
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records)
    check_against_file(evaluator, predict(evaluator, random_predictions(split), all_ids(split)), tmp_path, split)


@pytest.mark.slow
def test_on_real_coco_the_figures_are_pycocotools(tmp_path: Path) -> None:
    """Crowds, objects of all sizes and 80 classes; found with noise, some as another class, and some twice."""
    split = read_split(data_folder("coco-subset"), "val")
    evaluator = DetectionEvaluator(split, split.records)
    check_against_file(evaluator, noisy(split), tmp_path, split)


def noisy(split: CocoSplit) -> list[Any]:
    rng = np.random.default_rng(0)
    coco = COCO()
    coco.dataset = {"images": split.content.images, "annotations": [], "categories": []}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    results: dict[int, list[Any]] = {image_id: [] for image_id in all_ids(split)}
    for a in split.content.annotations:
        mask = coco.annToRLE(a)
        for _ in range(rng.integers(0, 3)):
            x, y, w, h = np.array(a["bbox"]) + rng.normal(scale=0.05, size=4) * max(a["bbox"][2:])
            results[a["image_id"]].append(
                {
                    "image_id": a["image_id"],
                    "category_id": a["category_id"] if rng.random() < 0.8 else int(rng.choice(split.category_ids)),
                    "bbox": [x, y, max(w, 1.0), max(h, 1.0)],
                    "score": float(rng.random()),
                    "segmentation": {"size": mask["size"], "counts": _text(mask["counts"])},
                }
            )
    return [{"image_id": image_id, "instances": found} for image_id, found in results.items()]


def _text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


def test_an_annotation_of_id_0_counts(coco: Path) -> None:
    """pycocotools takes the id 0, which Roboflow's jsons begin with, for "nothing was matched"."""
    edit_json(coco, "val", lambda content: [a.update(id=a["id"] - 1) for a in content["annotations"]])
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records)
    assert evaluator.metrics(predict(evaluator, truth(split), all_ids(split)))["box_ap"] == pytest.approx(100)


def test_nothing_detected_is_a_file_too(coco: Path, tmp_path: Path) -> None:
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records, pictures=1)
    nothing = {image_id: instances[:0] for image_id, instances in truth(split).items()}
    evaluator.write(predict(evaluator, nothing, all_ids(split)), tmp_path)
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == []
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_pictures_show_both_sides_of_some_images(coco: Path, tmp_path: Path) -> None:
    split = read_split(coco, "val")
    evaluator = DetectionEvaluator(split, split.records, pictures=2)
    evaluator.write(predict(evaluator, truth(split), all_ids(split)), tmp_path)
    pictures = sorted(tmp_path.glob("*.png"))
    assert [p.name for p in pictures] == ["00_0.png", "01_2.png"]
    pixels = np.asarray(Image.open(pictures[0]).convert("RGB")).astype(int)
    left, right = np.array_split(pixels[60:], 2, axis=1)  # below the headings
    assert left.std() > 10
    assert np.abs(left[:, : right.shape[1]] - right).mean() < 40  # the truth was found: both sides alike


def test_the_surest_are_drawn_where_none_is_sure() -> None:
    unsure = [{"score": 0.01 * i} for i in range(20)]
    shown, rule = choose(unsure)
    assert [each["score"] for each in shown] == [0.01 * i for i in range(19, 19 - FALLBACK, -1)]
    assert "none has" in rule
    assert choose([*unsure, {"score": 0.9}])[0] == [{"score": 0.9}]


def test_boxes_alone_are_drawn_and_written(coco: Path, tmp_path: Path) -> None:
    split = read_split(coco, "val", with_masks=False)
    evaluator = DetectionEvaluator(split, split.records, with_masks=False, pictures=1)
    outputs = truth(split)
    for instances in outputs.values():
        instances.remove("pred_masks")
    evaluator.write(predict(evaluator, outputs, all_ids(split)), tmp_path)
    assert all("segmentation" not in each for each in json.loads((tmp_path / RESULTS_FILE).read_text()))
    assert len(list(tmp_path.glob("*.png"))) == 1
