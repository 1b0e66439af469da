"""The masked autoencoder computes what the official one does, and never lets a masked pixel reach the encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones.mae.masking import Masking, draw_masking, mask_from_noise, random_masking
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.patches import patchify, unpatchify
from backbones.vit.encoder import create_encoder
from tests.golden.figures import arrays, draw_weights, tensor

# Our sums run in another order than the official ones (the patch embedding is a matrix product, the loss a plain mean).
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build(*, target: str) -> MaskedAutoencoder:
    return MaskedAutoencoder(
        create_encoder("vit_micro_patch16", img_size=80),
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=4,
        target=target,
    )


def official_names(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name.removeprefix("encoder."): p for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tensor("images", (2, 3, 80, 80), scale=1.0, offset=0.1)


@pytest.fixture(scope="module")
def masking() -> Masking:
    return mask_from_noise(torch.from_numpy(arrays("mae_forward")["noise"]), 0.75)


# --- Stored figures of models_mae.py for the same weights, images and noise.


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in arrays("mae_forward").items() if v.dtype.kind != "U"}


def with_drawn_weights(*, target: str = "pixels") -> MaskedAutoencoder:
    model = build(target=target)
    draw_weights(official_names(model))
    return model


def test_parameters_that_train_bear_the_official_names() -> None:
    ours = sorted(n for n, p in official_names(build(target="pixels_norm")).items() if p.requires_grad)
    assert ours == arrays("mae_forward")["parameters"].tolist()


def test_mask_equals_official(golden: dict[str, Tensor], masking: Masking) -> None:
    assert torch.equal(masking.mask, golden["mask"].float())


def test_patches_equal_official(golden: dict[str, Tensor], images: Tensor) -> None:
    assert torch.equal(patchify(images, 16)[0, ::7], golden["patches_first_image_every7"])


def test_latent_equals_official(golden: dict[str, Tensor], images: Tensor, masking: Masking) -> None:
    latent = with_drawn_weights().forward_encoder(patchify(images, 16), masking)
    torch.testing.assert_close(latent, golden["latent"], **CLOSE)


def test_prediction_equals_official(golden: dict[str, Tensor], images: Tensor, masking: Masking) -> None:
    torch.testing.assert_close(with_drawn_weights().predict(images, masking), golden["prediction"], **CLOSE)


@pytest.mark.parametrize("target", ["plain", "normalised"])
def test_loss_and_every_gradient_equal_official(
    golden: dict[str, Tensor], images: Tensor, masking: Masking, target: str
) -> None:
    mae = with_drawn_weights(target={"plain": "pixels", "normalised": "pixels_norm"}[target])
    loss = mae(images, masking)
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden[f"loss_{target}"], rtol=1e-5, atol=0)
    parameters = official_names(mae)
    norms = [parameters[n].grad.double().norm() for n in arrays("mae_forward")["parameters"].tolist()]
    torch.testing.assert_close(torch.stack(norms), golden[f"gradient_norms_{target}"], rtol=1e-5, atol=1e-8)


# --- What must hold for any input.


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=40)
def test_unpatchify_inverts_patchify(batch: int, rows: int, columns: int, patch: int) -> None:
    pixels = torch.randn(batch, 3, rows * patch, columns * patch)
    patches = patchify(pixels, patch)
    assert patches.shape == (batch, rows * columns, patch * patch * 3)
    assert torch.equal(unpatchify(patches, patch, (rows, columns)), pixels)


def test_patches_are_in_row_major_order_with_channels_last() -> None:
    pixels = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    second_of_first_row = patchify(pixels, 2)[1, 1].reshape(2, 2, 3)
    assert torch.equal(second_of_first_row, pixels[1, :, 0:2, 2:4].permute(1, 2, 0))


def test_masked_pixels_do_not_reach_the_prediction(images: Tensor, masking: Masking) -> None:
    mae = build(target="pixels")
    patches = patchify(images, 16)
    other = torch.where(masking.mask.bool().unsqueeze(-1), torch.randn_like(patches), patches)
    changed = unpatchify(other, 16, (5, 5))
    assert torch.equal(mae.predict(images, masking), mae.predict(changed, masking))
    assert mae(images, masking) != mae(changed, masking)


def test_visible_pixels_do_not_reach_the_target(images: Tensor, masking: Masking) -> None:
    mae = build(target="pixels_norm")
    pixels = images.clone().requires_grad_()
    mae.decoder_target(pixels, patchify(pixels, 16), masking.ids_masked).square().sum().backward()
    gradient = patchify(pixels.grad, 16).abs().sum(-1)
    assert gradient[masking.mask == 0].sum() == 0
    assert (gradient[masking.mask == 1] > 0).all()


def test_encoder_sees_only_visible_tokens(images: Tensor) -> None:
    mae = build(target="pixels_norm")
    seen: list[int] = []
    for block in mae.encoder.blocks:
        block.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    embedded: list[int] = []
    original = mae.embed_patches
    mae.embed_patches = lambda patches: (embedded.append(patches.shape[1]), original(patches))[1]  # type: ignore[method-assign]
    mae(images)
    assert seen == [1 + 6] * 4
    assert embedded == [6]


def with_mask_tokens_in_the_encoder(**options: Any) -> MaskedAutoencoder:
    encoder = create_encoder("vit_micro_patch16", img_size=80)
    sizes = {"decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4}
    return MaskedAutoencoder(encoder, encoder_mask_tokens=True, **(sizes | options))


def test_mask_tokens_in_the_encoder_take_every_block_over_all_tokens(images: Tensor, masking: Masking) -> None:
    mae = with_mask_tokens_in_the_encoder()
    assert mae.mask_token.shape == (1, 1, 128)  # the encoder's width
    seen: list[int] = []
    for block in [*mae.encoder.blocks, *mae.decoder_blocks]:
        block.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    mae(images, masking).backward()
    assert seen == [1 + 25] * 6
    unused = {n for n, p in mae.named_parameters() if p.grad is None}
    assert unused == {"encoder.pos_embed", "decoder_pos_embed"}


def test_mask_tokens_in_the_encoder_replace_the_masked_patches_where_they_are(images: Tensor, masking: Masking) -> None:
    """By hand: timm's encoder over embedded patches of which the masked ones were overwritten by the mask token."""
    mae = with_mask_tokens_in_the_encoder().eval()
    nn.init.normal_(mae.mask_token)
    encoder = mae.encoder
    x = torch.where(masking.mask.bool().unsqueeze(-1), mae.mask_token, encoder.patch_embed(images))
    x = encoder.norm(encoder.blocks(encoder._pos_embed(x)))
    torch.testing.assert_close(mae.forward_encoder(patchify(images, 16), masking), x, **CLOSE)
    decoded = mae.decoder_embed(x) + mae.decoder_pos_embed
    for block in mae.decoder_blocks:
        decoded = block(decoded)
    wanted = mae.decoder_pred(mae.decoder_norm(decoded))[:, 1:]
    torch.testing.assert_close(mae.predict(images, masking), wanted, **CLOSE)


@pytest.mark.parametrize("in_encoder", [False, True])
def test_mask_tokens_say_nothing_of_masked_pixels(images: Tensor, masking: Masking, in_encoder: bool) -> None:
    mae = with_mask_tokens_in_the_encoder() if in_encoder else build(target="pixels")
    pixels = images.clone().requires_grad_()
    mae.forward_decoder(mae.forward_encoder(patchify(pixels, 16), masking), masking).square().sum().backward()
    gradient = patchify(pixels.grad, 16).abs().sum(-1)
    assert gradient[masking.mask == 1].sum() == 0
    assert (gradient[masking.mask == 0] > 0).all()


@pytest.mark.parametrize(("sampling", "ratio", "visible"), [("random", 0.75, 9), ("block", 0.5, 18), ("grid", 0.75, 9)])
def test_sampling_of_the_model_is_drawn_when_none_is_given(sampling: str, ratio: float, visible: int) -> None:
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch8", img_size=48),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        mask_ratio=ratio,
        mask_sampling=sampling,
    )
    seen: list[int] = []
    mae.encoder.blocks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    pictures = torch.randn(3, 3, 48, 48)
    torch.manual_seed(5)
    loss = mae(pictures)
    torch.manual_seed(5)
    masking = draw_masking(sampling, 3, (6, 6), ratio)
    assert seen == [1 + visible]
    assert torch.equal(loss, mae(pictures, masking))


def test_predictions_are_as_wide_as_the_target() -> None:
    for target, outputs in (("pixels", 768), ("pixels_norm", 768), ("pca", 96), ("tokens", 8192)):
        with torch.device("meta"):
            assert build(target=target).decoder_pred.out_features == outputs


def test_patch_embedding_equals_timms_convolution(images: Tensor) -> None:
    mae = build(target="pixels_norm")
    ours = mae.embed_patches(patchify(images, 16))
    torch.testing.assert_close(ours, mae.encoder.patch_embed(images), **CLOSE)


def test_with_everything_visible_the_latent_is_timms_features(images: Tensor) -> None:
    mae = build(target="pixels_norm").eval()
    in_order = mask_from_noise(torch.arange(25.0).expand(2, -1), 0.0)
    torch.testing.assert_close(
        mae.forward_encoder(patchify(images, 16), in_order), mae.encoder.forward_features(images), **CLOSE
    )


def test_order_of_the_visible_patches_does_not_matter(images: Tensor) -> None:
    mae = build(target="pixels")
    noise = torch.rand(2, 25)
    first = mask_from_noise(noise, 0.6)
    kept_again = torch.where(first.mask.bool(), noise + 1, torch.rand(2, 25) * 0.5)
    second = mask_from_noise(kept_again, 0.6)
    assert torch.equal(first.mask, second.mask)
    assert not torch.equal(first.ids_keep, second.ids_keep)
    torch.testing.assert_close(mae.predict(images, first), mae.predict(images, second), **CLOSE)


def test_non_square_images_work() -> None:
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch8", img_size=(32, 64)),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    images = torch.randn(2, 3, 32, 64)
    assert mae.predict(images, random_masking(2, 32, 0.75)).shape == (2, 32, 192)
    mae(images).backward()


def test_bf16_autocast_gives_a_float32_loss_close_to_full_precision(images: Tensor, masking: Masking) -> None:
    torch.manual_seed(0)
    mae = build(target="pixels_norm")
    exact = mae(images, masking)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mae(images, masking)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(torch.isfinite(p.grad).all() for p in mae.parameters() if p.requires_grad)


def test_learns_to_carry_colours_from_visible_to_masked_patches() -> None:
    torch.manual_seed(0)
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch8", img_size=32),
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=4,
        target="pixels",
    )
    images = torch.randn(32, 3, 1, 1).expand(-1, -1, 32, 32)
    optimizer = torch.optim.AdamW([p for p in mae.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(30):
        loss = mae(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Predicting the mean colour would leave the variance.
    assert loss.item() < 0.3 * images.var().item()
