"""LVIS: read from its json, sampled by rarity, learnt with the federated loss, and judged as the package ``lvis`` judges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")
pytest.importorskip("lvis", reason="the lvis package is not installed")

from detectron2.data import MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.evaluation import LVISEvaluator
from pycocotools.mask import encode
from torch.utils.data import TensorDataset

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe
from tasks.datasets.embedded import EmbeddedConfig, prepare
from tasks.detection import lvis
from tasks.detection.data import CocoSplit, read_split
from tasks.detection.sampling import RepeatedDataset, repeat_factors
from tasks.detection.task import DetectionTask

from .conftest import small_recipe

OPTIONS = {"train_json": "annotations/lvis_v1_train.json", "val_json": "annotations/lvis_v1_val.json"}
FREQUENCY = "rrcccfffff"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded scenes as LVIS has its images: a json without file names, that knows some classes to be absent."""
    config = EmbeddedConfig(pretrain_count=1, train_count=1, val_count=1, scene_train_count=12, scene_val_count=6)
    root = prepare(config, tmp_path_factory.mktemp("scenes")) / "coco"
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
        seen: dict[int, set[int]] = {}
        for a in content["annotations"]:
            seen.setdefault(a["image_id"], set()).add(a["category_id"])
            a.pop("iscrowd")
        ids = [c["id"] for c in content["categories"]]
        for image in content["images"]:
            absent = [i for i in ids if i not in seen.get(image["id"], set())]
            image["coco_url"] = f"http://images.cocodataset.org/{split}2017/{image.pop('file_name')}"
            image["neg_category_ids"] = absent[:3]
            image["not_exhaustive_category_ids"] = sorted(seen.get(image["id"], set()))[:1]
        for place, category in enumerate(content["categories"]):
            category["frequency"] = FREQUENCY[place]
            category["image_count"] = 1 + place
        (root / "annotations" / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    return root


def split_of(root: Path, split: str = "val") -> CocoSplit:
    return read_split(root, split, OPTIONS)


def predictions(split: CocoSplit, seed: int = 0) -> list[dict[str, Any]]:
    """The truth with boxes moved a little, some of a wrong class, in COCO's format for results."""
    rng = np.random.default_rng(seed)
    found: dict[int, list[dict[str, Any]]] = {record["image_id"]: [] for record in split.records}
    images = {image["id"]: image for image in split.content.images}
    for a in split.content.annotations:
        for _ in range(2):
            category = a["category_id"] if rng.random() < 0.7 else int(rng.choice(split.category_ids))
            x, y, w, h = a["bbox"]
            box = [x + rng.normal(), y + rng.normal(), w * rng.uniform(0.8, 1.2), h * rng.uniform(0.8, 1.2)]
            run_lengths = encode(np.asfortranarray(filled(box, images[a["image_id"]])))
            found[a["image_id"]].append(
                {
                    "image_id": a["image_id"],
                    "category_id": category,
                    "bbox": box,
                    "segmentation": {**run_lengths, "counts": run_lengths["counts"].decode()},
                    "score": float(rng.random()),
                }
            )
    return [{"image_id": image, "instances": objects} for image, objects in found.items()]


def filled(box: list[float], image: dict[str, Any]) -> np.ndarray:
    mask = np.zeros((image["height"], image["width"]), np.uint8)
    x, y, w, h = (round(max(0.0, value)) for value in box)
    mask[y : y + h, x : x + w] = 1
    return mask


def test_an_lvis_json_is_known_by_its_absent_classes(folder: Path) -> None:
    assert lvis.is_lvis(split_of(folder))
    assert not lvis.is_lvis(read_split(folder, "val"))


def test_images_are_found_by_cocos_address(folder: Path) -> None:
    names = [Path(record["file_name"]).relative_to(folder).parts[0] for record in split_of(folder).records]
    assert set(names) == {"val2017"}


def test_lvis_is_chosen_by_the_recipe_and_coco_beside_it_is_left_alone(folder: Path) -> None:
    recipe: Any = load_recipe("lvis/vit_base_patch16_lvis")
    assert recipe.data.options == OPTIONS
    assert read_split(folder, "val", recipe.data.options).json.name == "lvis_v1_val.json"
    assert read_split(folder, "val").json.name == "instances_val2017.json"


def test_ap_equals_that_of_detectron2s_evaluator(folder: Path) -> None:
    """Of noisy predictions, boxes and masks; categories are renumbered by detectron2, which counts them from 0."""
    split = split_of(folder)
    results = predictions(split)
    ours = lvis.LvisEvaluator(split, split.records).metrics(results)
    MetadataCatalog.get("lvis-of-test").set(
        json_file=str(split.json), thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(split.category_ids)}
    )
    theirs = LVISEvaluator("lvis-of-test", tasks=("bbox", "segm"), distributed=False, max_dets_per_image=300)
    theirs._predictions = [
        {
            "image_id": image["image_id"],
            "instances": [{**o, "category_id": split.category_ids.index(o["category_id"])} for o in image["instances"]],
        }
        for image in results
    ]
    with lvis._lvis_on_new_numpy():
        tables = theirs.evaluate()
    MetadataCatalog.remove("lvis-of-test")
    for kind, expected in (("box", tables["bbox"]), ("mask", tables["segm"])):
        assert expected["AP"] > 1
        for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
            value = expected[name] if expected[name] >= 0 else math.nan
            assert ours[f"{kind}_{name.lower()}"] == pytest.approx(value, nan_ok=True), (kind, name)


def test_perfect_predictions_have_ap_100_and_none_have_0(folder: Path) -> None:
    split = split_of(folder)
    truth = [
        {
            "image_id": record["image_id"],
            "instances": [
                {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 1.0}
                for a in split.content.annotations
                if a["image_id"] == record["image_id"]
            ],
        }
        for record in split.records
    ]
    evaluator = lvis.LvisEvaluator(split, split.records, with_masks=False)
    assert evaluator.metrics(truth)["box_ap"] == pytest.approx(100)
    nothing = [{"image_id": record["image_id"], "instances": []} for record in split.records]
    figures = lvis.LvisEvaluator(split, split.records).metrics(nothing)
    assert figures["box_ap"] == figures["mask_ap"] == 0


def test_objects_of_images_that_are_not_evaluated_are_not_missed(folder: Path) -> None:
    split = split_of(folder)
    first = split.records[:2]
    ids = {record["image_id"] for record in first}
    truth = [
        {"image_id": i, "instances": [{**a, "score": 1.0} for a in split.content.annotations if a["image_id"] == i]}
        for i in ids
    ]
    assert lvis.LvisEvaluator(split, first, with_masks=False).metrics(truth)["box_ap"] == pytest.approx(100)


def test_evaluating_leaves_the_truth_and_numpy_as_they_were(folder: Path) -> None:
    split = split_of(folder)
    before = json.dumps(split.content.annotations, default=str)
    lvis.LvisEvaluator(split, split.records, with_masks=False).metrics(predictions(split))
    assert json.dumps(split.content.annotations, default=str) == before
    assert not hasattr(np, "float")


def test_a_json_without_frequencies_is_refused(folder: Path) -> None:
    split = split_of(folder)
    split.content.categories[3].pop("frequency")
    with pytest.raises(UserError, match=r"lvis_v1_val.json: category \d+ has frequency=None"):
        lvis.check_lvis(split)


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
@pytest.mark.parametrize("value", [None, 5, ["1"], [999]])
def test_one_image_that_does_not_say_what_is_absent_is_refused(folder: Path, key: str, value: Any) -> None:
    """It would fall to COCO's rule, under which detections of unknown classes count as wrong."""
    split = split_of(folder)
    image = split.content.images[2]
    image.pop(key) if value is None else image.update({key: value})
    assert lvis.is_lvis(split)
    with pytest.raises(UserError, match=rf"lvis_v1_val.json: image {image['id']} \(.*jpg\) has (no )?{key}"):
        lvis.check_lvis(split)


def test_ids_may_be_written_otherwise(folder: Path, tmp_path: Path) -> None:
    """Texts for ids of images and categories, floats for those of objects: the figures stay."""
    split = split_of(folder)
    expected = lvis.LvisEvaluator(split, split.records).metrics(predictions(split))
    content = json.loads(split.json.read_text())
    for kind in ("images", "categories"):
        for item in content[kind]:
            item["id"] = f"{item['id']:05d}"
    for a in content["annotations"]:
        a.update(id=float(a["id"]), image_id=f"{a['image_id']:05d}", category_id=f"{a['category_id']:05d}")
    for image in content["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [f"{i:05d}" for i in image[key]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    again = read_split(folder, "val", {"val_json": str(tmp_path / "val.json"), "val_images": "."})
    lvis.check_lvis(again)
    assert lvis.LvisEvaluator(again, again.records).metrics(predictions(again)) == pytest.approx(expected, nan_ok=True)


def test_a_coco_json_given_for_lvis_is_refused(folder: Path) -> None:
    recipe = small_recipe(folder)
    recipe.data.name = recipe.protocol = "lvis"
    with pytest.raises(UserError, match="have no neg_category_ids, which LVIS's AP needs: give LVIS's json"):
        DetectionTask(recipe)


def test_classes_are_weighted_by_the_images_that_the_json_counts_or_by_our_own_count(folder: Path) -> None:
    split = split_of(folder, "train")
    assert lvis.image_counts(split) == list(range(1, 11))
    for category in split.content.categories:
        category.pop("image_count")
    pairs = {(a["image_id"], a["category_id"]) for a in split.content.annotations}
    assert lvis.image_counts(split) == [sum(c == of for _, of in pairs) for c in split.category_ids]


def records_of(*images: list[int]) -> list[dict[str, Any]]:
    return [{"annotations": [{"category_id": c} for c in classes]} for classes in images]


def test_factors_are_detectron2s() -> None:
    """Class 1 is in one image of eight: sqrt(0.5 / 0.125) = 2."""
    records = records_of(*[[0]] * 7, [0, 1])
    assert repeat_factors(records, 0.5) == pytest.approx([1.0] * 7 + [2.0])


def test_an_epoch_shows_whole_parts_always_and_fractions_by_chance() -> None:
    """Over 400 epochs every image comes as often as its factor says, and never less than its whole part."""
    factors = np.array([1.0, 2.25, 1.0, 1.5, 3.0, 1.25])
    dataset = RepeatedDataset(TensorDataset(torch.arange(6)), factors)
    assert len(dataset) == 10
    np.random.seed(0)
    counts = np.array([np.bincount([dataset.image(i) for i in range(len(dataset))], minlength=6) for _ in range(400)])
    assert (counts >= np.floor(factors)).all()
    assert (counts[:, [0, 2, 4]] == [1, 1, 3]).all()
    assert counts.mean(axis=0) == pytest.approx(factors, abs=0.12)
    sampler = RepeatFactorTrainingSampler(torch.tensor(factors), shuffle=False, seed=0)
    theirs = [
        np.bincount(sampler._get_epoch_indices(torch.Generator().manual_seed(i)), minlength=6) for i in range(400)
    ]
    assert counts.mean(axis=0) == pytest.approx(np.mean(theirs, axis=0), abs=0.15)


def test_without_rare_classes_every_image_comes_once() -> None:
    dataset = RepeatedDataset(TensorDataset(torch.arange(3)), np.ones(3))
    assert [dataset.image(i) for i in range(len(dataset))] == [0, 1, 2]


def test_the_task_repeats_weighs_and_judges(folder: Path) -> None:
    recipe = small_recipe(folder, federated_loss=True, repeat_threshold=0.9, federated_classes=5)
    recipe.data.name, recipe.data.options = "lvis", dict(OPTIONS)
    assert recipe.implied_protocol() == "lvis"
    task = DetectionTask(recipe)
    predictor = task.model.roi_heads.box_predictor
    torch.testing.assert_close(predictor.fed_loss_cls_weights, torch.arange(1.0, 11.0).sqrt())
    dataset = task.train_dataset()
    assert len(dataset) > len(task.train_records)  # type: ignore[arg-type]
    losses = task.model.train()([dataset[0], dataset[len(dataset) - 1]])  # type: ignore[arg-type]
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert isinstance(task.evaluator(), lvis.LvisEvaluator)
