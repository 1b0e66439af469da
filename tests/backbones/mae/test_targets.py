"""Targets: what is predicted for a masked patch, the loss, and the way back to pixels (paper Table 1d)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.patches import patchify, take
from backbones.mae.targets import TARGETS, PCACoefficients, Target, TokenTarget, create_target, normalise_patches
from backbones.mae.tokenizer import PatchCodebook
from backbones.vit.encoder import create_encoder

PATCH = 4
OPTIONS = {"pca_components": 5, "vocabulary": 6}


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Six pictures of 16 patches with more variance in some directions than in others."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(6, 3, 4, 4, generator=generator)
    return nn.functional.interpolate(coarse, 16, mode="bilinear") + 0.1 * torch.randn(6, 3, 16, 16, generator=generator)


@pytest.fixture(scope="module")
def patches(images: Tensor) -> Tensor:
    return patchify(images, PATCH)


IDS = torch.tensor([[3, 0, 9]]).expand(6, -1)


def made(name: str, patches: Tensor) -> Target:
    target = create_target(name, PATCH, **OPTIONS)  # type: ignore[arg-type]
    if target.needs_fit:
        target.fit(patches.flatten(0, 1))
    return target


def test_normalised_patches_have_zero_mean_and_unit_variance() -> None:
    patches = normalise_patches(torch.randn(2, 3, 192) * 7 + 4)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 3), rtol=1e-4, atol=0)
    assert normalise_patches(torch.full((1, 1, 12), 3.0)).abs().sum() == 0  # a flat patch is finite


def test_pixels_are_the_patches_themselves(images: Tensor, patches: Tensor) -> None:
    assert torch.equal(made("pixels", patches)(images, patches, IDS), patches[:, [3, 0, 9]])
    normalised = made("pixels_norm", patches)(images, patches, IDS)
    assert torch.equal(normalised, normalise_patches(patches[:, [3, 0, 9]]))


def test_pca_is_that_of_scikit_learn_up_to_sign(images: Tensor, patches: Tensor) -> None:
    reference = PCA(5, svd_solver="full").fit(patches.flatten(0, 1).double().numpy())
    wanted = reference.transform(patches[:, [3, 0, 9]].flatten(0, 1).double().numpy()).reshape(6, 3, 5)
    coefficients = made("pca", patches)(images, patches, IDS).numpy()
    signs = np.sign((coefficients * wanted).sum(axis=(0, 1)))
    np.testing.assert_allclose(coefficients, wanted * signs, rtol=1e-4, atol=1e-5)


def test_pca_coefficients_come_in_order_of_their_variance_and_are_not_whitened(images: Tensor, patches: Tensor) -> None:
    everything = torch.arange(16).expand(6, -1)
    variance = made("pca", patches)(images, patches, everything).flatten(0, 1).var(dim=0)
    assert (variance.diff() < 0).all()
    assert variance[0] > 2 * variance[-1]


def test_all_pca_coefficients_together_are_the_patch(images: Tensor, patches: Tensor) -> None:
    target = PCACoefficients(PATCH, 48)
    target.fit(patches.flatten(0, 1))
    coefficients = target(images, patches, torch.arange(16).expand(6, -1))
    torch.testing.assert_close(target.to_pixels(coefficients, patches), patches, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(target.components @ target.components.T, torch.eye(48), rtol=0, atol=1e-5)
    # A component's sign is free; ours does not depend on the machine: the entry of largest size is positive.
    assert (target.components.max(dim=1).values == target.components.abs().max(dim=1).values).all()


@pytest.mark.parametrize("name", ["pca", "tokens"])
def test_fitting_is_deterministic_and_survives_in_the_state(name: str, images: Tensor, patches: Tensor) -> None:
    first, second = made(name, patches), made(name, patches)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
    loaded = create_target(name, PATCH, **OPTIONS)  # type: ignore[arg-type]
    assert loaded.needs_fit
    with pytest.raises(RuntimeError, match="neither fitted"):
        loaded(images, patches, IDS)
    loaded.load_state_dict(first.state_dict())
    assert not loaded.needs_fit
    assert torch.equal(loaded(images, patches, IDS), first(images, patches, IDS))


def test_token_targets_are_ids_and_the_loss_is_cross_entropy(images: Tensor, patches: Tensor) -> None:
    target = made("tokens", patches)
    ids = target(images, patches, IDS)
    assert isinstance(target, TokenTarget)
    assert torch.equal(ids, target.tokenizer(images)[:, [3, 0, 9]])
    logits = torch.randn(6, 3, 6)
    by_hand = -logits.log_softmax(-1).gather(2, ids.unsqueeze(-1)).mean()
    torch.testing.assert_close(target.loss(logits, ids), by_hand)
    sure = nn.functional.one_hot(ids, 6) * 100.0
    assert target.loss(sure, ids) < 1e-4


@pytest.mark.parametrize("name", TARGETS)
def test_true_targets_lead_back_to_the_pixels(name: str, images: Tensor, patches: Tensor) -> None:
    target = made(name, patches)
    true = target(images, patches, torch.arange(16).expand(6, -1))
    prediction = nn.functional.one_hot(true, 6).float() if name == "tokens" else true
    error = (target.to_pixels(prediction, patches) - patches).square().mean() / patches.var()
    # 5 of 48 coefficients and 6 tokens keep but a part; what they keep must be more than the mean patch.
    assert error < {"pca": 0.2, "tokens": 0.6}.get(name, 1e-6)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_trains_all_parameters_and_none_of_its_own(name: str, images: Tensor, patches: Tensor) -> None:
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch4", img_size=16),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        target=made(name, patches),
    )
    before = {k: v.clone() for k, v in mae.decoder_target.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        loss = mae(images)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    missing = {n for n, p in mae.named_parameters() if p.grad is None}
    assert missing == {"encoder.pos_embed", "decoder_pos_embed"}
    assert all(torch.equal(v, before[k]) for k, v in mae.decoder_target.state_dict().items())


@pytest.mark.parametrize("name", TARGETS)
def test_half_precision_does_not_reach_the_targets(name: str, patches: Tensor) -> None:
    target = made(name, patches)
    torch.manual_seed(0)
    images = torch.randn(200, 3, 16, 16)
    ids = torch.arange(16).expand(200, -1)
    wanted = target(images, patchify(images, PATCH), ids)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(target(images, patchify(images, PATCH), ids), wanted)


@pytest.mark.parametrize("sampling", ["random", "block", "grid"])
@pytest.mark.parametrize("name", TARGETS)
def test_shapes_and_flops_need_no_fit_and_no_memory(name: str, sampling: str) -> None:
    with torch.device("meta"):
        encoder = create_encoder("vit_micro_patch4", img_size=16)
        target = create_target(name, PATCH, **OPTIONS)  # type: ignore[arg-type]
        mae = MaskedAutoencoder(
            encoder, decoder_embed_dim=32, decoder_num_heads=2, mask_sampling=sampling, target=target
        )
        images = torch.empty(2, 3, 16, 16)
    mae(images).backward()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampling", "name"), [("random", "pixels_norm"), ("grid", "pca"), ("random", "tokens"), ("block", "pixels")]
)
def test_a_compiled_step_is_the_same_step(sampling: str, name: str, images: Tensor, patches: Tensor) -> None:
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch4", img_size=16),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        mask_sampling=sampling,
        target=made(name, patches),
    )
    torch.manual_seed(0)
    wanted = mae(images)
    torch._dynamo.reset()
    # One graph, and so nothing that waits for the device; blocks are drawn on the CPU, outside of it.
    compiled = torch.compile(mae, backend="aot_eager", fullgraph=sampling != "block")
    torch.manual_seed(0)
    loss = compiled(images)
    loss.backward()
    torch.testing.assert_close(loss, wanted)
    torch._dynamo.reset()


class HalfBright(nn.Module):
    """A tokenizer of two ids with weights and a mode of its own, as another network would be."""

    vocabulary = 2

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        nn.init.constant_(self.layer.weight, 7.0)

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return (patchify(images, PATCH).mean(-1) > 0).long()


def test_any_module_that_maps_images_to_ids_is_a_tokenizer(images: Tensor, patches: Tensor) -> None:
    tokenizer = HalfBright()
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch4", img_size=16),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
        target=TokenTarget(tokenizer),
    )
    assert mae.decoder_pred.out_features == 2
    mae.train()(images).backward()
    assert (tokenizer.layer.weight == 7.0).all(), "the model's initialisation is not for its tokenizer"
    assert not any(p.requires_grad for p in tokenizer.parameters())
    ids = mae.decoder_target(images, patches, IDS)
    assert torch.equal(ids, (take(patches, IDS).mean(-1) > 0).long())
    with pytest.raises(TypeError, match="vocabulary"):
        TokenTarget(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("pixels_nrom", {}, 'did you mean "pixels_norm"'),
        ("pca", {"pca_components": 49}, "1 to 48"),
        ("pca", {"pca_components": 0}, "mae.pca_components=0"),
        ("tokens", {"vocabulary": 1}, "mae.vocabulary=1"),
        ("tokens", {"tokenizer": "/nowhere/t.safetensors"}, "mae.tokenizer=/nowhere/t.safetensors"),
    ],
)
def test_targets_that_cannot_be_are_one_line(name: str, options: dict[str, object], part: str) -> None:
    with pytest.raises(UserError) as caught:
        create_target(name, PATCH, **options)  # type: ignore[arg-type]
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_file_is_ready_to_use(tmp_path: Path, images: Tensor, patches: Tensor) -> None:
    fitted = made("tokens", patches)
    assert isinstance(fitted, TokenTarget)
    assert isinstance(fitted.tokenizer, PatchCodebook)
    path = tmp_path / "tokenizer.safetensors"
    save_tensors(path, fitted.tokenizer.state_dict())
    loaded = create_target("tokens", PATCH, tokenizer=str(path))
    assert (loaded.needs_fit, loaded.outputs) == (False, 6)
    assert torch.equal(loaded(images, patches, IDS), fitted(images, patches, IDS))
