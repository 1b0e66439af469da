"""Every protocol on every encoder without ``--set``: what a net asks for is in the recipe, and a step and an evaluation run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from mae_bench.jobs.for_encoder import EncoderAtHand, with_published_crop
from mae_bench.jobs.from_tasks import from_tasks
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import load_recipe
from mae_bench.recipes.options import Options
from tasks import create_task

pytest.importorskip("detectron2")
pytest.importorskip("mmseg")

VIT = {"depth": 4, "embed_dim": 32, "num_heads": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "AugReg": ("vit_tiny_patch16_224", VIT),
    "DINOv2": ("vit_small_patch14_reg4_dinov2", {**VIT, "img_size": 56}),
    "CLIP": ("vit_base_patch16_clip_224", VIT),
    "SigLIP": ("vit_base_patch16_siglip_224", VIT),
    "DINOv3": ("vit_small_patch16_dinov3", {**VIT, "img_size": 64}),
    "EVA-02": ("eva02_tiny_patch14_224", VIT),
    "Perception Encoder": ("vit_pe_core_tiny_patch16_384", {**VIT, "img_size": 64}),
    "BEiT": ("beit_base_patch16_224", VIT),
    "AIMv2": ("aimv2_large_patch14_224", VIT),
    "relative MLP": ("vit_relpos_small_patch16_224", VIT),
    "Swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}),
    "ConvNeXt": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "Hiera": ("hiera_tiny_224", {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}),
    "MLP-Mixer": ("mixer_s16_224", {}),  # of one size, which no smaller image fills
    "ResNet": ("resnet18", {"channels": (8, 16, 24, 32)}),
}


def checkpoint(folder: Path, family: str) -> Checkpoint:
    name, args = FAMILIES[family]
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **args)
    save_for_hf(net, folder / "model", model_args=args, safe_serialization=True)
    return load_checkpoint(folder / "model")


def recipe(source: Checkpoint, protocol: str, *overrides: str) -> Any:
    return EncoderAtHand(source.arch, source).recipe(protocol, "embedded", overrides)


def step_and_evaluation(recipe: Any, source: Checkpoint) -> list[str]:
    """Names of parameters that train and got no gradient."""
    recipe.train.workers, recipe.train.cache_images = 0, False
    torch.manual_seed(0)
    task = create_task(recipe, source)
    dataset: Any = task.train_dataset()
    batch = task.prepare_batch(task.collate()([dataset[i] for i in range(4)]))
    losses = task.model.train()(batch)
    loss = sum(losses.values())
    assert torch.isfinite(loss)
    loss.backward()
    assert {p for group in task.param_groups() for p in group["params"]} == {
        p for p in task.model.parameters() if p.requires_grad
    }
    images: Any = task.val_dataset()
    evaluator = task.evaluator()
    with torch.no_grad():
        evaluator.update(task.model.eval(), task.collate()([images[i] for i in range(2)]))
    return [name for name, p in task.model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_takes_a_step_and_evaluates(family: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, family)
    for protocol in ("linear", "finetune", "detection", "segmentation"):
        assert step_and_evaluation(recipe(source, protocol), source) == [], protocol


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["detection", "segmentation"])
@pytest.mark.parametrize("family", ["DINOv3", "ConvNeXt", "Swin"])
def test_a_trained_dense_model_is_evaluated_alone_and_nothing_else(family: str, protocol: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, family)
    trained = create_task(recipe(source, protocol), source)
    said = {"arch": source.arch, "method": "a", "timm": source.architecture.as_config(48)}  # type: ignore[union-attr]
    save_tensors(tmp_path / "model.safetensors", trained.export(trained.model)["model"], said)
    alone = load_checkpoint(tmp_path / "model.safetensors")
    assert (alone.task, alone.method) == (protocol, "a")
    evaluated = create_task(recipe(alone, protocol, "schedule.iterations=0"), alone)
    theirs = trained.model.state_dict()
    assert evaluated.model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in evaluated.model.state_dict().items())
    for refused in ("detection", "segmentation"):  # to go on training from a part of an encoder is no measurement
        with pytest.raises(UserError, match="encoder is not whole"):
            create_task(recipe(alone, refused), alone)
    with pytest.raises(UserError, match="encoder is not whole"):
        alone.open()


@pytest.mark.parametrize("family", ["SigLIP", "ConvNeXt", "DINOv2"])
def test_one_command_has_a_job_for_every_protocol(family: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, family)
    tasks = ["knn", "probe", "linear", "finetune", "partial", "attentive", "detection", "segmentation"]
    jobs = from_tasks(tasks, source.arch, source, Options()).jobs
    assert [job.recipe.protocol for job in jobs] == tasks
    assert {job.recipe.data.name for job in jobs} == {"embedded"}
    assert all(job.recipe.encoder.arch == source.arch for job in jobs)


def test_without_a_class_token_features_are_the_encoders_own(tmp_path: Path) -> None:
    siglip = checkpoint(tmp_path, "SigLIP")
    at_hand = EncoderAtHand(siglip.arch, siglip)
    assert at_hand.recipe("knn", "imagenet").features.pools == ["own"]
    assert at_hand.recipe("linear", "imagenet").head.pool == "own"
    assert at_hand.recipe("probe", "imagenet").features.pools == ["avg"]  # inner layers, too
    assert at_hand.recipe("linear", "imagenet").encoder.img_size == 224
    clip = checkpoint(tmp_path / "clip", "CLIP")
    assert EncoderAtHand(clip.arch, clip).recipe("knn", "imagenet").features.pools == ["token"]


def test_nets_with_stages_go_to_their_own_pyramid(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, "ResNet")  # whose stem is an output of its own
    assert recipe(source, "detection").detection.pyramid == "stages"
    assert recipe(source, "detection").detection.patch_size is None
    assert recipe(source, "segmentation").segmentation.out_blocks == [1, 2, 3, 4]
    assert recipe(source, "segmentation", "segmentation.out_blocks=[0,1,2,4]").segmentation.out_blocks == [0, 1, 2, 4]


def test_a_net_that_gives_its_class_token_alone_is_pooled_by_it() -> None:
    """PiT's mean over no patches was not a number."""
    at_hand = EncoderAtHand("timm:pit_ti_224")
    assert {at_hand.recipe(p, "embedded").head.pool for p in ("linear", "finetune")} == {"token"}
    with pytest.raises(UserError, match=r"strides (8, 16, 32|7, 14, 28): a pyramid of stages needs 4"):
        at_hand.recipe("detection", "embedded")


def test_patches_of_14_are_resampled_and_a_bias_of_its_own_is_kept(tmp_path: Path) -> None:
    dinov2 = checkpoint(tmp_path / "a", "DINOv2")
    assert EncoderAtHand(dinov2.arch, dinov2).recipe("detection", "coco").detection.patch_size == 16
    beit = checkpoint(tmp_path / "b", "BEiT")
    assert not recipe(beit, "detection").detection.rel_pos


def test_a_net_without_layers_in_order_learns_at_one_rate_and_the_plan_says_so() -> None:
    given = {"imagenet": "/imagenet", "ade20k": "/ade20k"}
    plan = from_tasks(["linear", "finetune", "segmentation"], "timm:poolformerv2_s12", None, Options(given))
    assert {job.recipe.optimizer.layer_decay for job in plan.jobs} == {None}
    assert plan.notes == [
        "timm:poolformerv2_s12 has no layers that timm groups: finetune, segmentation without layer-wise learning-rate decay"
    ]
    assert from_tasks(["finetune"], "timm:resnet18", None, Options({"imagenet": "/imagenet"})).notes == []
    asked = Options(overrides=["optimizer.layer_decay=0.75"])  # what cannot be is refused when the job starts
    assert from_tasks(["finetune"], "timm:poolformerv2_s12", None, asked).jobs[0].recipe.optimizer.layer_decay == 0.75


def test_without_data_the_plan_says_on_what_it_runs() -> None:
    (note,) = from_tasks(["knn", "finetune"], "vit_base_patch16", None, Options()).notes
    assert note.startswith("no --data: knn, finetune on the embedded set")
    assert from_tasks(["knn"], "vit_micro_patch8", None, Options()).notes == []  # it was made for this one
    assert from_tasks(["knn"], "vit_base_patch16", None, Options({"cifar10": "/cifar"})).notes == []


def test_what_a_protocol_takes_over_is_not_its_own() -> None:
    """LVIS's file stands on detection's, whose COCO and embedded set are detection's."""
    for data in ({}, {"coco": "/coco"}):
        with pytest.raises(UserError, match=r"^task lvis needs data: give --data lvis=DIR$"):
            from_tasks(["lvis"], "vit_base_patch16", None, Options(data))


def test_a_pyramid_of_one_stride_is_not_made_of_stages() -> None:
    with pytest.raises(
        UserError, match=r"^detection_fpn makes a pyramid .* timm:resnet18 has stages .*--tasks detection$"
    ):
        from_tasks(["detection_fpn"], "timm:resnet18", None, Options())


def test_a_net_that_takes_one_size_slides(tmp_path: Path) -> None:
    hiera = checkpoint(tmp_path, "Hiera")
    made = recipe(hiera, "segmentation")
    assert (made.segmentation.inference, made.segmentation.slide_stride) == ("slide", 42)
    assert recipe(hiera, "finetune").encoder.img_size == 192  # six of its largest strides


def test_a_published_row_keeps_its_own_evaluation_crop(tmp_path: Path) -> None:
    """AugReg's own crop is 0.9; the row's protocol has 224 / 256. Recipes that reproduce nothing take the encoder's."""
    source = checkpoint(tmp_path, "AugReg")
    assert source.preprocessing.crop_pct == 0.9
    row: Any = load_recipe("finetune/vit_base_patch16_imagenet")
    job = with_published_crop(PlannedJob("a", row, source))
    made: Any = job.recipe
    assert (made.augmentation.eval_crop_ratio, made.encoder.interpolation) == (224 / 256, "bicubic")
    assert row.augmentation.eval_crop_ratio is None
    own: Any = EncoderAtHand(source.arch, source).recipe("finetune", "imagenet")
    assert with_published_crop(PlannedJob("b", own, source)).recipe.augmentation.eval_crop_ratio is None  # type: ignore[attr-defined]
    assert with_published_crop(PlannedJob("c", row)).recipe is row
