"""The classifier is timm's and the official one, pooled either way; a probe trains its head and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.vit.encoder import create_encoder
from mae_bench.recipes.load import load_recipe
from tasks.classification.config import ClassificationRecipe, HeadConfig
from tasks.classification.model import Classifier
from tests.encoders import of_vit
from tests.golden.figures import arrays, draw_weights, figures, tensor

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build(img_size: int = 32, classes: int = 7, patch: int = 8, **head: object) -> Classifier:
    encoder = create_encoder(f"vit_micro_patch{patch}", img_size=img_size)
    return Classifier(of_vit(encoder), classes, HeadConfig(**head), nn.CrossEntropyLoss())  # type: ignore[arg-type]


def batch(count: int = 6, size: int = 32, classes: int = 7) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, size, size), torch.arange(count) % classes


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_logits_equal_official(pool: str) -> None:
    model = build(img_size=80, patch=16, pool=pool).eval()
    names = dict(model.encoder.named_parameters()) | {f"head.{k}": p for k, p in model.head[1].named_parameters()}
    draw_weights(names, positions=True)
    images = tensor("images", (2, 3, 80, 80), scale=1.0, offset=0.1)
    with torch.no_grad():
        logits = model((images, None))
    torch.testing.assert_close(logits, torch.from_numpy(arrays("classifier")[f"logits_{pool}"]), **CLOSE)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_exported_weights_give_the_same_logits_in_timm(pool: str) -> None:
    model = build(pool=pool, init_std=0.1).eval()
    timm_model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=7, global_pool=pool
    ).eval()
    timm_model.load_state_dict(model.timm_state())
    images, targets = batch()
    torch.testing.assert_close(model((images, targets)), timm_model(images), **CLOSE)


@pytest.mark.parametrize("std", [2e-5, 0.01])
def test_head_starts_truncated_normal_with_zero_bias(std: float) -> None:
    torch.manual_seed(0)
    linear = build(classes=200, init_std=std).head[1]
    assert linear.weight.std().item() == pytest.approx(std, rel=0.02)
    assert linear.bias.abs().sum() == 0


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
def test_new_head_is_distributed_as_the_official_one(protocol: str) -> None:
    torch.manual_seed(0)
    recipe = load_recipe(f"{protocol}/vit_base_patch16_imagenet")
    assert isinstance(recipe, ClassificationRecipe)
    encoder = create_encoder("vit_w768_d1_h12_patch16", img_size=32)
    norm, linear = Classifier(of_vit(encoder), 1000, recipe.head, nn.CrossEntropyLoss()).head
    official = figures("head_initialisation")[protocol]
    count, mean, std, low, high = official["weight"]
    weight = linear.weight.double()
    assert weight.numel() == count
    assert weight.std().item() == pytest.approx(std, rel=5e-3)  # the standard error is 0.08 %
    assert abs(weight.mean().item() - mean) < 6 * std / count**0.5
    # Of 768,000 draws; neither is cut, as it would be at two deviations.
    assert [weight.min().item(), weight.max().item()] == pytest.approx([low, high], rel=0.15)
    assert [linear.bias.min().item(), linear.bias.max().item()] == official["bias"][3:] == [0, 0]
    if protocol == "linear":  # main_linprobe.py, as read there
        assert (norm.affine, norm.eps, norm.num_features) == (False, 1e-6, 768)


def test_loss_in_training_and_logits_in_evaluation() -> None:
    model = build(init_std=0.1, pool="avg")
    images, targets = batch()
    losses = model.train()((images, targets))
    logits = model.eval()((images, targets))
    torch.testing.assert_close(losses, {"loss": nn.functional.cross_entropy(logits, targets)})


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_fine_tuning_trains_every_parameter(pool: str) -> None:
    model = build(pool=pool, init_std=0.1).train()
    model(batch())["loss"].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model.encoder.pos_embed.grad.abs().sum() > 0


def test_linear_probe_leaves_the_encoder_bit_identical_and_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("vit_micro_patch8", img_size=32, drop_path=0.5)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    config = HeadConfig(frozen_encoder=True, pool="token", batch_norm=True, init_std=0.01)
    model = Classifier(of_vit(encoder), 7, config, nn.CrossEntropyLoss()).train()
    assert model.training
    assert not any(m.training for m in model.encoder.modules())
    assert model.head[0].training
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.1.weight", "head.1.bias"]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0, weight_decay=0.1)
    head = model.head[1].weight.clone()
    first, second = (model(data)["loss"] for data in [batch()] * 2)
    assert first.item() != 0
    (first + second).backward()
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert not torch.equal(model.head[1].weight, head)
    assert all(p.grad is None for p in model.encoder.parameters())
    assert model.head[0].running_mean.abs().sum() > 0


def test_probe_normalises_features_without_scale_and_shift() -> None:
    model = build(frozen_encoder=True, pool="token", batch_norm=True, init_std=0.01).train()
    seen: list[Tensor] = []
    model.head[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(batch(64))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(128), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0].var(0, unbiased=False), torch.ones(128), rtol=1e-2, atol=1e-2)
    assert list(model.head[0].parameters()) == []


def test_label_smoothed_loss_of_soft_targets() -> None:
    model = build(init_std=0.1).train()
    images, targets = batch()
    soft = nn.functional.one_hot(targets, 7).float()
    torch.testing.assert_close(model((images, soft))["loss"], model((images, targets))["loss"], **CLOSE)


@pytest.mark.parametrize("frozen", [False, True])
def test_bf16_autocast_trains(frozen: bool) -> None:
    model = build(frozen_encoder=frozen, pool="token" if frozen else "avg", batch_norm=frozen, init_std=0.01).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch())["loss"]
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in trained)


@pytest.mark.parametrize(
    "options",
    [
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 1.0},
        {"relative_bias": True, "pos_embed": "none"},
        {"final_norm": False},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
    ],
)
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_encoders_of_other_projects(options: dict[str, Any], pool: str) -> None:
    """Registers, LayerScale, relative positions, no final norm, no class token: pooled, and every parameter learns."""
    encoder = create_encoder("vit_micro_patch8", img_size=32, **options)
    config = HeadConfig(pool=pool, init_std=0.1)
    if pool == "token" and not encoder.has_class_token:
        with pytest.raises(UserError, match="no class token"):
            Classifier(of_vit(encoder), 3, config, nn.CrossEntropyLoss())
        return
    model = Classifier(of_vit(encoder), 3, config, nn.CrossEntropyLoss()).train()
    model((torch.randn(2, 3, 32, 32), torch.tensor([0, 2])))["loss"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def saved_bytes(model: Classifier) -> int:
    """What autograd keeps of a forward pass for the backward pass, in bytes, weights aside."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = model.train()(batch())["loss"]
    loss.backward()
    return sum(kept.values())


def test_fewer_blocks_keep_fewer_activations() -> None:
    kept = [saved_bytes(build(tune_blocks=blocks, init_std=0.1)) for blocks in (0, 0.5, 1, 2, 3, 4)]
    assert kept == sorted(set(kept))
    # The frozen part keeps nothing: every further block costs the same.
    assert kept[3] - kept[2] == pytest.approx(kept[4] - kept[3], rel=1e-3)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("blocks", [0, 0.5, 1, 3, 4])
def test_partial_fine_tuning_trains_all_that_it_may_and_nothing_else(pool: str, blocks: float) -> None:
    torch.manual_seed(0)
    model = build(pool=pool, tune_blocks=blocks, init_std=0.1).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(batch())["loss"].backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    # None unused, as DDP asks; none with a gradient that does not train.
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])} <= trained


def test_frozen_blocks_are_in_evaluation_mode_and_drop_no_path() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("vit_micro_patch8", img_size=32, drop_path=0.5)
    model = Classifier(of_vit(encoder), 7, HeadConfig(tune_blocks=1), nn.CrossEntropyLoss()).train()
    assert [block.training for block in encoder.blocks] == [False, False, False, True]
    seen: list[Tensor] = []
    encoder.blocks[3].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = batch()
    for _ in range(2):
        model(data)
    assert torch.equal(seen[0], seen[1])
    assert not any(m.training for m in model.eval().modules())


def test_attentive_probe_is_timms_map_pooling_on_a_frozen_encoder() -> None:
    torch.manual_seed(0)
    model = build(pool="attentive", frozen_encoder=True, init_std=0.1)
    trained = {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad and n.startswith("encoder.")}
    assert trained == {"attn_pool"}
    assert any(p.requires_grad for p in model.head.parameters())
    timm_model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=7, global_pool="map", fc_norm=False
    ).eval()
    timm_model.load_state_dict(model.timm_state())
    data = batch()
    torch.testing.assert_close(model.eval()(data), timm_model(data[0]), **CLOSE)
    model.train()(data)["loss"].backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    assert not any(block.training for block in model.encoder.blocks)


@pytest.mark.parametrize("head", [{"pool": "avg"}, {"pool": "token", "frozen_encoder": True, "batch_norm": True}])
def test_logits_of_evaluation_are_fp32_under_bf16(head: dict[str, Any]) -> None:
    model = build(classes=1000, init_std=0.5, **head).eval()
    images, targets = batch(64, classes=1000)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.encoder(images)
        logits = model((images, targets))
    with torch.no_grad():
        assert torch.equal(logits, model.head(features.float()))
    best, rounded = logits.topk(2).values, logits.bfloat16().topk(2).values
    assert (best[:, 0] > best[:, 1]).all()
    assert (rounded[:, 0] == rounded[:, 1]).any()  # which is what bf16 would have made of them


def test_the_loss_is_taken_in_fp32_under_bf16() -> None:
    model = build(classes=1000, init_std=0.5)
    seen: list[Tensor] = []
    model.criterion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(batch(4))["loss"]
    assert seen[0].dtype == loss.dtype == torch.float32
