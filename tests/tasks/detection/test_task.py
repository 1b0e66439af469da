"""What the engine gets from the detection task: groups as ViTDet trains them, data counted, mistakes named beforehand."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver.build import get_default_optimizer_params
from PIL import Image

import tasks
from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from mae_bench.recipes.load import load_recipe, recipe_names
from tasks.detection.model import ENCODER_PREFIX
from tasks.detection.task import DetectionTask

from .conftest import edit_json, small_recipe

DATA = Path(os.environ.get("MAE_BENCH_DATA", Path(__file__).parents[4] / "shared" / "data"))


def drop_masks(content: dict[str, Any]) -> None:
    for each in content["annotations"]:
        del each["segmentation"]


def test_validation_of_crowds_alone_is_refused(coco: Path) -> None:
    edit_json(coco, "val", lambda c: [a.update(iscrowd=1) for a in c["annotations"]])
    with pytest.raises(UserError, match=r"no validation object counts .* AP is not defined on it"):
        DetectionTask(small_recipe(coco))


def test_a_json_of_lvis_in_a_run_of_detection_is_noted(coco: Path) -> None:
    def become_lvis(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
        for category in content["categories"]:
            category["frequency"] = "f"

    edit_json(coco, "val", become_lvis)
    assert "AP is counted by LVIS's rules, not by COCO's" in " ".join(DetectionTask(small_recipe(coco)).data.notes)


def test_groups_equal_detectron2s_for_vitdet(coco: Path) -> None:
    """Every parameter's rate and decay against what mask_rcnn_vitdet_b_100ep.py asks for."""
    recipe = small_recipe(coco)
    recipe.optimizer.layer_decay, recipe.optimizer.weight_decay = 0.7, 0.1
    task = DetectionTask(recipe)

    def rate(name: str) -> float:
        return float(get_vit_lr_decay_rate(name, lr_decay_rate=0.7, num_layers=4))

    theirs = get_default_optimizer_params(
        task.model,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        lr_factor_func=rate,
        overrides={"pos_embed": {"weight_decay": 0.0}},
    )
    wanted = {id(p): (group["lr"], group["weight_decay"]) for group in theirs for p in group["params"]}
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in task.param_groups() for p in g["params"]}
    names = {id(p): name for name, p in task.model.named_parameters()}
    assert {names[k]: pytest.approx(v) for k, v in wanted.items()} == {names[k]: v for k, v in found.items()}
    assert len(found) == len(names)
    assert len({scale for scale, _ in found.values()}) == 6  # embeddings, four blocks, the rest


def test_data_is_counted_and_what_is_left_out_is_noted(coco: Path) -> None:
    data = DetectionTask(small_recipe(coco)).data
    assert (data.train_count, data.val_count, data.classes) == (5, 5, 3)
    assert data.notes == ["train: left out 1 of 6 images (without objects): 5.jpg"]
    assert data.account["train"]["images"]["used"] == 5
    assert data.account["val"]["annotations"]["found"] == 8
    assert data.class_names == ["two", "seven", "ninety"]


def test_an_image_that_is_listed_twice_is_noted(coco: Path) -> None:
    edit_json(coco, "val", lambda content: content["images"][1].update(file_name="0.jpg"))
    assert any("1 of 5 are there twice, such as 0.jpg" in note for note in DetectionTask(small_recipe(coco)).data.notes)


def test_validation_that_is_training_is_refused_unless_it_is_meant(coco: Path) -> None:
    shutil.rmtree(coco / "val2017")
    (coco / "val2017").symlink_to("train2017")
    recipe = small_recipe(coco)
    with pytest.raises(
        UserError, match=r"val .*5 of 5 are training images too, such as 0.jpg.*data.allow=\[val_in_train\]"
    ):
        DetectionTask(recipe)
    recipe.data.allow = ["val_in_train"]
    assert any("5 of 5 are training images too" in note for note in DetectionTask(recipe).data.notes)


def test_before_the_first_step_three_lines_say_what_is_there(coco: Path) -> None:
    edit_json(coco, "val", lambda content: [a.update(category_id=2) for a in content["annotations"]])
    task = DetectionTask(small_recipe(coco))
    lines = task.look_at_data()
    seen = "5 images of 48x40 pixels (5 decoded)"
    assert lines[0] == (
        f"data coco: train: {seen}, 10 objects of 3 of 3 classes, 3 to 4 of each; "
        f"val: {seen}, 8 objects of 1 of 3 classes, 8 of each"
    )
    assert lines[1].startswith(
        "data coco: train 10 annotations = 10 used + 0 left out, 6 images = 5 used + 1 left out (1 empty_image), 3 classes = "
    )
    assert "2 of 3 classes have no validation image, such as 'seven'" in lines[2]
    assert lines[0].removeprefix("data coco: ").split("; ")[0] in task.data.looked


def test_what_cannot_be_decoded_stops_before_the_first_step(coco: Path) -> None:
    (coco / "val2017" / "2.jpg").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"2.jpg: unreadable image"):
        DetectionTask(small_recipe(coco)).look_at_data()


def test_levels_of_16_bit_images_are_scaled_when_asked_for(coco: Path) -> None:
    for path in (coco / "train2017").iterdir():
        levels = np.random.default_rng(0).integers(1, 256, (40, 48)).astype(np.uint16)
        path.unlink()
        Image.fromarray(levels).save(path.with_suffix(".png"))
    edit_json(coco, "train", lambda c: [i.update(file_name=i["file_name"].replace("jpg", "png")) for i in c["images"]])
    recipe = small_recipe(coco)
    task = DetectionTask(recipe)
    task.look_at_data()
    assert "--set data.white_level=255" in "".join(task.data.notes)
    assert int(task.train_dataset()[0]["image"].max()) == 0
    recipe.data.white_level = 255
    assert int(DetectionTask(recipe).train_dataset()[0]["image"].max()) > 100


def test_limits_take_the_first_images(coco: Path) -> None:
    recipe = small_recipe(coco)
    recipe.data.limit_train, recipe.data.limit_val = 2, 3
    task = DetectionTask(recipe)
    assert [item["image_id"] for item in task.val_records] == [10, 11, 12]
    assert [item["image_id"] for item in task.train_records] == [10, 11]
    assert (task.data.train_count, task.data.val_count) == (2, 3)
    assert [record["image_id"] for record in task.evaluator().records] == [10, 11, 12]


def test_broken_images_are_left_out_and_counted_when_asked_for(coco: Path) -> None:
    for name in ("1.jpg", "3.jpg"):
        path = coco / "train2017" / name
        path.write_bytes(path.read_bytes()[:300])
    recipe = small_recipe(coco)
    recipe.data.skip_broken = True
    task = DetectionTask(recipe)
    assert task.data.train_count == 3
    assert "2 unreadable training images left out (1.jpg, 3.jpg)" in task.data.notes


def test_masks_are_asked_for_before_training(coco: Path) -> None:
    edit_json(coco, "val", drop_masks)
    with pytest.raises(UserError, match=r"instances_val2017\.json.*no segmentation.*with_masks=false"):
        DetectionTask(small_recipe(coco))
    edit_json(coco, "train", drop_masks)
    task = DetectionTask(small_recipe(coco, with_masks=False))
    assert task.train_dataset()[0]["instances"].has("gt_boxes")


def test_train_and_val_must_have_the_same_categories(coco: Path) -> None:
    edit_json(coco, "val", lambda content: content["categories"].append({"id": 99, "name": "more"}))
    with pytest.raises(UserError, match="different categories"):
        DetectionTask(small_recipe(coco))


def test_a_class_count_in_the_recipe_must_be_the_jsons(coco: Path) -> None:
    assert DetectionTask(small_recipe(coco, classes=3)).data.classes == 3
    with pytest.raises(UserError, match=r"detection\.classes=80, but .* has 3"):
        DetectionTask(small_recipe(coco, classes=80))


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data coco=.*nowhere"):
        DetectionTask(small_recipe(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"--data coco=.*empty"):
        DetectionTask(small_recipe(tmp_path))


def test_the_encoder_is_the_checkpoints(coco: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    encoder = create_encoder("vit_micro_patch8", img_size=48)
    torch.save({"model": encoder.state_dict()}, tmp_path / "encoder.pth")
    task = DetectionTask(small_recipe(coco), load_checkpoint(tmp_path / "encoder.pth"))
    parameters = dict(task.model.named_parameters())
    for name, value in encoder.named_parameters():
        if name.startswith(("blocks.", "patch_embed.")):
            torch.testing.assert_close(parameters[ENCODER_PREFIX + name], value, atol=0, rtol=0)
    exported = task.export(task.model)["model"]
    assert exported.keys() == task.model.state_dict().keys()


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("detection/")])
def test_shipped_recipes_load(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.task == "detection"
    assert recipe.title


def test_the_published_recipe_has_vitdets_schedule() -> None:
    """detectron2, projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py."""
    recipe = load_recipe("detection/vit_base_patch16_coco")
    assert [round(m * 184375) for m in recipe.schedule.milestones] == [163889, 177546]
    assert (recipe.schedule.iterations, recipe.schedule.warmup_iterations) == (184375, 250)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.optimizer.layer_decay) == (1e-4, 0.1, 0.7)
    assert (recipe.train.batch_size, recipe.encoder.drop_path) == (64, 0.1)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "coco-subset").is_dir(), reason=f"no COCO subset in {DATA}")
def test_real_coco_with_80_classes_crowds_and_skipping_ids_trains() -> None:
    recipe: Any = load_recipe("detection/vit_micro_patch8_coco256", [f"data.root={DATA / 'coco-subset'}"])
    task = tasks.create_task(recipe)
    assert task.data.classes == 80
    assert task.data.val_count == 121
    np.random.seed(0)
    torch.manual_seed(0)
    dataset: Any = task.train_dataset()
    losses = task.model.train()([dataset[i] for i in (0, 1)])
    assert all(torch.isfinite(loss) for loss in losses.values())


def detector_checkpoint(coco: Path, folder: Path) -> Checkpoint:
    """A finished run's file."""
    trained = DetectionTask(small_recipe(coco))
    save_tensors(folder / "model.safetensors", trained.export(trained.model)["model"], {"arch": "vit_micro_patch8"})
    return load_checkpoint(folder / "model.safetensors")


def test_evaluation_only_takes_all_heads_and_needs_no_training_set(coco: Path, tmp_path: Path) -> None:
    checkpoint = detector_checkpoint(coco, tmp_path)
    shutil.rmtree(coco / "train2017")
    (coco / "annotations" / "instances_train2017.json").unlink()
    recipe = small_recipe(coco)
    recipe.schedule.iterations = 0
    task = DetectionTask(recipe, checkpoint)
    assert (task.data.train_count, task.data.val_count) == (0, 5)
    state = task.model.state_dict()
    for name, tensor in checkpoint.heads.items():
        if name in state:
            torch.testing.assert_close(state[name], tensor, atol=0, rtol=0)
    assert sum(name in state for name in checkpoint.heads) > 30


def test_heads_of_other_classes_cannot_be_evaluated_but_train_as_far_as_they_fit(coco: Path, tmp_path: Path) -> None:
    checkpoint = detector_checkpoint(coco, tmp_path)
    for split in ("train", "val"):
        edit_json(coco, split, lambda content: content["categories"].append({"id": 99, "name": "more"}))
    recipe = small_recipe(coco)
    notes = DetectionTask(recipe, checkpoint).data.notes
    assert any("start afresh" in note for note in notes)
    recipe.schedule.iterations = 0
    with pytest.raises(UserError, match=r"does not fit this model.*instances_val2017\.json has 4 classes"):
        DetectionTask(recipe, checkpoint)


def test_one_json_for_training_and_validation_is_refused(coco: Path) -> None:
    recipe = small_recipe(coco)
    recipe.data.options = {"val_json": "annotations/instances_train2017.json", "val_images": "train2017"}
    with pytest.raises(UserError, match=r"instances_train2017\.json is the json of both training and validation"):
        DetectionTask(recipe)


def test_images_are_known_by_name_for_messages(coco: Path) -> None:
    dataset: Any = DetectionTask(small_recipe(coco)).train_dataset()
    assert Path(dataset.name(0)).parent == coco / "train2017"
