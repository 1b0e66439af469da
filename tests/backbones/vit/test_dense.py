"""The dense encoder: timm's own features where nothing is added, windows that do not see each other, any image size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.vit.dense import DenseEncoder, partition, unpartition
from backbones.vit.encoder import create_encoder
from backbones.vit.relative import bias_of_tables


def build(img_size: int = 32, **kwargs: object) -> DenseEncoder:
    torch.manual_seed(0)
    return DenseEncoder(create_encoder("vit_micro_patch8", img_size=img_size), img_size=img_size, **kwargs).eval()  # type: ignore[arg-type]


def randomise_tables(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if "rel_" in name:
            nn.init.normal_(parameter, std=0.5)


@given(st.integers(1, 3), st.integers(1, 11), st.integers(1, 11), st.tuples(st.integers(1, 5), st.integers(1, 5)))
@settings(max_examples=60)
def test_unpartition_inverts_partition_on_any_grid(
    batch: int, rows: int, columns: int, window: tuple[int, int]
) -> None:
    x = torch.randn(batch, rows, columns, 3)
    windows = partition(x, window)
    assert windows.shape == (batch, -(-rows // window[0]), -(-columns // window[1]), *window, 3)
    assert torch.equal(unpartition(windows, (rows, columns)), x)
    assert windows.abs().sum() == pytest.approx(x.abs().sum().item(), rel=1e-5)  # padding is zero


def test_padding_is_what_the_projection_makes_of_zeros() -> None:
    """So that windows are padded after the projection as detectron2's are before it."""
    linear = nn.Linear(4, 6)
    x = torch.randn(1, 3, 5, 4)
    before = linear(partition(x, (2, 2)))
    torch.testing.assert_close(partition(linear(x), (2, 2), linear.bias), before)


def test_with_global_attention_and_class_token_it_is_timms_encoder() -> None:
    images = torch.randn(2, 3, 32, 32)
    encoder = create_encoder("vit_micro_patch8", img_size=32).eval()
    wanted = encoder.forward_intermediates(images, indices=[1, 3], norm=False, intermediates_only=True)
    dense = DenseEncoder(encoder, img_size=32, class_token=True, out_blocks=[1, 3]).eval()
    for ours, timms in zip(dense(images), wanted, strict=True):
        torch.testing.assert_close(ours, timms, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kwargs", [{"window_size": 2, "rel_pos": True}, {"rel_pos": True}, {"rel_pos_bias": True}])
def test_relative_positions_start_as_nothing_and_then_matter(kwargs: dict[str, object]) -> None:
    images = torch.randn(1, 3, 32, 32)
    plain = build(**{k: v for k, v in kwargs.items() if not k.startswith("rel_")})
    added = build(**kwargs)
    torch.testing.assert_close(added(images), plain(images), rtol=1e-4, atol=1e-4)
    randomise_tables(added)
    assert (added(images)[0] - plain(images)[0]).abs().max() > 0.01


def test_windows_do_not_see_each_other_and_global_blocks_see_all() -> None:
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 16:, 16:] += 1  # the lower right window of 2 x 2 patches
    windowed = build(window_size=2, global_blocks=[])
    difference = (windowed(images)[0] - windowed(changed)[0]).abs().sum(1)[0]
    assert difference[:2].sum() == difference[:, :2].sum() == 0
    assert (difference[2:, 2:] > 0).all()
    mixed = build(window_size=2, global_blocks=[3])
    assert ((mixed(images)[0] - mixed(changed)[0]).abs().sum(1) > 0).all()


def test_last_block_of_each_quarter_is_global_by_default() -> None:
    encoder = create_encoder("vit_tiny_patch16", img_size=32)
    dense = DenseEncoder(encoder, img_size=32, window_size=14)
    assert dense.windows == [14, 14, 0, 14, 14, 0, 14, 14, 0, 14, 14, 0]


@pytest.mark.parametrize(
    "kwargs", [{}, {"window_size": 3, "rel_pos": True}, {"rel_pos_bias": True, "class_token": True}]
)
@given(height=st.integers(8, 60), width=st.integers(8, 60))
@settings(max_examples=8)
def test_map_covers_an_image_of_any_size(kwargs: dict[str, object], height: int, width: int) -> None:
    (out,) = build(**kwargs)(torch.randn(1, 3, height, width))
    assert out.shape == (1, 128, -(-height // 8), -(-width // 8))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"window_size": 2, "rel_pos": True},
        {"rel_pos_bias": True, "class_token": True, "out_blocks": [0, 3]},
        {"window_size": 2, "rel_pos": True, "out_blocks": [0, 1]},
    ],
)
def test_every_parameter_gets_a_gradient(kwargs: dict[str, object]) -> None:
    dense = build(**kwargs).train()
    torch.stack([m.square().sum() for m in dense(torch.randn(1, 3, 32, 32))]).sum().backward()
    without = [n for n, p in dense.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # DDP would wait for them


def test_recomputing_blocks_changes_neither_output_nor_gradient() -> None:
    def gradients(recompute: bool) -> list[Tensor]:
        dense = build(window_size=2, rel_pos=True, grad_checkpointing=recompute).train()
        dense(torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32))[0].square().sum().backward()
        return [p.grad for p in dense.parameters() if p.grad is not None]

    for kept, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(kept, recomputed)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"window_size": 2, "class_token": True}, "class_token or window_size"),
        ({"rel_pos": True, "class_token": True}, "class_token or rel_pos"),
        ({"rel_pos_bias": True, "window_size": 2}, "rel_pos_bias"),
        ({"rel_pos_bias": True, "rel_pos": True}, "rel_pos_bias"),
    ],
)
def test_combinations_that_make_no_sense_are_named(kwargs: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(**kwargs)


def test_registers_bear_the_class_token_s_bias() -> None:
    table, table_cls = torch.randn(2, 3, 3), torch.randn(2, 3)
    bias, single = bias_of_tables(table, table_cls, (2, 2), 3), bias_of_tables(table, table_cls, (2, 2))
    assert bias.shape == (2, 7, 7)
    for i in range(7):
        for j in range(7):
            assert torch.equal(bias[:, i, j], single[:, max(0, i - 2), max(0, j - 2)])
    dense = DenseEncoder(variant(reg_tokens=4), img_size=32, class_token=True, rel_pos_bias=True)  # type: ignore[arg-type]
    assert dense(torch.randn(1, 3, 32, 32))[0].shape == (1, 128, 4, 4)


def test_bias_is_looked_up_by_offset_from_query_to_key() -> None:
    h, w = 2, 3
    table, table_cls = torch.randn(2, 2 * h - 1, 2 * w - 1), torch.randn(2, 3)
    bias = bias_of_tables(table, table_cls, (h, w))
    assert bias.shape == (2, 1 + h * w, 1 + h * w)
    cells = [(r, c) for r in range(h) for c in range(w)]
    for i, (qr, qc) in enumerate(cells):
        for j, (kr, kc) in enumerate(cells):
            assert torch.equal(bias[:, 1 + i, 1 + j], table[:, qr - kr + h - 1, qc - kc + w - 1])
    to_patch, from_patch, to_itself = table_cls.unbind(1)
    assert torch.equal(bias[:, 0, 0], to_itself)
    assert torch.equal(bias[:, 0, 1:], to_patch[:, None].expand(-1, h * w))
    assert torch.equal(bias[:, 1:, 0], from_patch[:, None].expand(-1, h * w))


def variant(**options: object) -> nn.Module:
    """An encoder that other projects' checkpoints give, nothing zero in it."""
    torch.manual_seed(0)
    encoder = create_encoder("vit_micro_patch8", img_size=32, **options)  # type: ignore[arg-type]
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder.eval()


VARIANTS = {
    "registers": {"reg_tokens": 4, "no_embed_class": True, "init_values": 1.0},
    "distillation token": {"reg_tokens": 1},
    "relative bias": {"relative_bias": True, "pos_embed": "none"},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
@torch.no_grad()
def test_encoders_of_other_projects_keep_their_features(options: dict[str, object]) -> None:
    images = torch.randn(2, 3, 32, 32)
    encoder = variant(**options)
    wanted = encoder.forward_intermediates(images, indices=[1, 3], norm=False, intermediates_only=True)  # type: ignore[operator]
    dense = DenseEncoder(encoder, img_size=32, class_token=True, out_blocks=[1, 3]).eval()
    for ours, timms in zip(dense(images), wanted, strict=True):
        torch.testing.assert_close(ours, timms, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize("class_token", [True, False])
def test_every_parameter_of_other_projects_encoders_learns(options: dict[str, object], class_token: bool) -> None:
    window = 0 if class_token else 2
    dense = DenseEncoder(variant(**options), img_size=32, class_token=class_token, window_size=window).train()
    dense(torch.randn(1, 3, 48, 32))[-1].square().mean().backward()
    assert [name for name, p in dense.named_parameters() if p.grad is None] == []


def test_an_encoder_s_own_relative_bias_excludes_decomposed_positions() -> None:
    with pytest.raises(UserError, match="of its own"):
        DenseEncoder(variant(**VARIANTS["relative bias"]), img_size=32, rel_pos=True)
