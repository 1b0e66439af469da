"""What enters the encoder is what the encoder's own library makes of an image, in every task; MAE's stays ImageNet's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor
from torchvision.transforms import Compose

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.encoders.preprocessing import family_default
from tasks.classification.config import ClassificationRecipe
from tasks.classification.task import ClassificationTask
from tasks.datasets.transforms import at_evaluation, eval_crop, normalise
from tasks.probing.config import ProbingRecipe
from tasks.probing.task import ProbingTask
from tasks.recipe import DataConfig, EncoderConfig, ScheduleConfig, TrainConfig
from tests.encoders import MAE
from tests.tasks.pictures import make_folders

SIZE = 32
# Mean 0.5 and crop 0.9; CLIP's colours and the whole image made square.
MODELS = {
    "augreg": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9, "interpolation": "bilinear"},
    "clip": {
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
        "crop_pct": 1.0,
        "crop_mode": "squash",
    },
}


def written(folder: Path, **cfg: Any) -> tuple[Checkpoint, Callable[[Image.Image], Tensor]]:
    """A ViT as timm writes it, with such a configuration; and timm's own transform for it."""
    args = {"img_size": SIZE, "patch_size": 8, "depth": 4, "embed_dim": 32, "num_heads": 2}
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, pretrained_cfg_overlay=cfg, **args)
    net.pretrained_cfg["input_size"] = (3, SIZE, SIZE)
    save_for_hf(net, folder, model_args=args, safe_serialization=True)
    return load_checkpoint(folder), create_transform(**resolve_model_data_config(net))


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Checkpoint, Callable[[Image.Image], Tensor]]:
    return written(tmp_path / "model", **request.param)


def picture(size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


def seen(encoder: Any) -> list[Tensor]:
    """Every batch that enters the patch embedding from now on."""
    found: list[Tensor] = []
    encoder.patch_embed.proj.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().clone()))
    return found


@pytest.mark.parametrize("size", [(SIZE, SIZE), (50, 70)])
def test_classification_evaluates_on_timms_tensor(pair: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    checkpoint, transform = pair
    root = make_folders(tmp_path / "data")
    recipe = ClassificationRecipe(
        encoder=EncoderConfig(checkpoint.arch, SIZE),
        data=DataConfig("mine", str(root)),
        schedule=ScheduleConfig(epochs=1),
    )
    task = ClassificationTask(recipe, checkpoint)
    image = picture(size)
    entering = seen(task.model.encoder)
    crop = eval_crop(task.preprocessing)
    task.evaluator().update(task.model.eval(), (crop(image).unsqueeze(0), torch.zeros(1, dtype=torch.long)))
    assert torch.equal(entering[0][0], transform(image))
    training, _ = task.prepare_batch([crop(image).unsqueeze(0), torch.zeros(1)])
    assert torch.equal(training[0], transform(image))


def test_probing_makes_features_of_timms_tensor(pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAE_BENCH_CACHE", str(tmp_path / "cache"))
    checkpoint, transform = pair
    root = make_folders(tmp_path / "data", train=2, val=1)
    recipe = ProbingRecipe(
        encoder=EncoderConfig(checkpoint.arch, SIZE),
        data=DataConfig("mine", str(root)),
        schedule=ScheduleConfig(iterations=0),
    )
    recipe.knn.k, recipe.train = [1], TrainConfig(workers=0)
    task = ProbingTask(recipe, checkpoint)
    entering = seen(task.source.encoder)
    task.prepare()
    images = task.train_images
    assert torch.equal(entering[0], torch.stack([transform(images.read(i)[0]) for i in range(len(images))]))


def without_resize(transform: Any) -> Callable[[Image.Image], Tensor]:
    return Compose(transform.transforms[-2:])  # to tensor, normalise


def test_detection_trains_and_evaluates_on_timms_tensor(pair: Any) -> None:
    pytest.importorskip("detectron2")
    from tasks.detection.model import build_detector
    from tests.tasks.detection.conftest import small_config

    checkpoint, transform = pair
    model = build_detector(checkpoint.open(), small_config(img_size=SIZE), 3).eval()
    entering = seen(model.backbone.net.dense.encoder)
    image = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    model([{"image": image, "height": SIZE, "width": SIZE}])
    assert torch.equal(entering[0][0], without_resize(transform)(picture()))


def test_segmentation_trains_and_evaluates_on_timms_tensor(pair: Any) -> None:
    pytest.importorskip("mmseg")
    from tasks.segmentation.model import build_segmenter
    from tests.tasks.segmentation.networks import CLASSES, batch, config

    checkpoint, transform = pair
    model = build_segmenter(checkpoint.open(), config(), SIZE, CLASSES)
    entering = seen(model.net.backbone.encoder)
    bgr = torch.from_numpy(np.array(picture())[:, :, ::-1].copy()).permute(2, 0, 1)
    for training in (True, False):
        images = batch((SIZE, SIZE), (SIZE, SIZE))
        images["inputs"] = [bgr, bgr]
        model.train(training)(images)
        assert torch.equal(entering.pop()[0], without_resize(transform)(picture()))


def test_an_encoder_with_imagenets_colours_is_seen_as_it_always_was() -> None:
    image = torch.from_numpy(np.array(picture())).permute(2, 0, 1).unsqueeze(0)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.equal(normalise(image, MAE), (image.float() / 255 - mean) / std)
    assert at_evaluation(MAE, 224).crop_pct == 224 / 256
    assert at_evaluation(MAE, 448).crop_pct == 1
    assert at_evaluation(family_default((448, 448), "448 px"), 224).crop_pct == 224 / 256


def test_what_the_recipe_says_of_the_crop_comes_first(tmp_path: Path) -> None:
    checkpoint, _ = written(tmp_path, **MODELS["augreg"])
    assert at_evaluation(checkpoint.preprocessing, 48).crop_pct == 0.9
    used = at_evaluation(checkpoint.preprocessing, 48, 0.5)
    assert (used.crop_pct, used.source["crop_pct"]) == (0.5, "eval_crop_ratio of the recipe")
    assert used.source["mean"] == "config.json"
