"""At ViT-B/16's shapes (224 px, 768 wide, two blocks) everything that MAE computes is what the official code computes.

Large tensors are compared by their sketch (see tests/golden/figures.py): norm and products within 1e-5 of the norm, in fp32.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.mae.masking import Masking, mask_from_noise
from backbones.mae.model import MaskedAutoencoder, patchify
from backbones.vit.encoder import initialise
from tests.golden.figures import arrays, draw_weights, figures, sketch, tensor

RELATIVE = 1e-5


def build(*, target: str) -> MaskedAutoencoder:
    encoder = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=768, depth=2, num_heads=12, num_classes=0, weight_init="skip"
    )
    initialise(encoder)
    return MaskedAutoencoder(encoder, decoder_embed_dim=512, decoder_depth=1, decoder_num_heads=16, target=target)


def official_names(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name.removeprefix("encoder."): p for name, p in model.named_parameters()}


def assert_same_sketch(name: str, ours: Tensor, official: NDArray[Any]) -> None:
    norm = official[0]
    assert norm > 0, name
    error = np.abs(sketch(name, ours) - official).max() / norm
    assert error <= RELATIVE, f"{name}: off by {error:.1e} of its norm"


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    return arrays("mae_base16")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tensor("images", (2, 3, 224, 224), scale=1.0, offset=0.1)


@pytest.fixture(scope="module")
def masking(golden: dict[str, NDArray[Any]]) -> Masking:
    return mask_from_noise(torch.from_numpy(golden["noise"]), 0.75)


@pytest.fixture(scope="module")
def drawn() -> MaskedAutoencoder:
    model = build(target="pixels")
    draw_weights(official_names(model))
    return model


def test_masking_ids_equal_official(golden: dict[str, NDArray[Any]], masking: Masking) -> None:
    assert masking.ids_keep.tolist() == golden["ids_keep"].tolist()
    assert masking.ids_restore.tolist() == golden["ids_restore"].tolist()
    assert masking.mask.tolist() == golden["mask"].tolist()


@pytest.mark.parametrize("name", ["latent", "prediction"])
def test_encoder_features_and_decoder_output_equal_official(
    golden: dict[str, NDArray[Any]], drawn: MaskedAutoencoder, images: Tensor, masking: Masking, name: str
) -> None:
    with torch.no_grad():
        latent = drawn.forward_encoder(patchify(images, 16), masking)
    ours = latent if name == "latent" else drawn.predict(images, masking)
    assert_same_sketch(name, ours, golden[name])
    norms = torch.from_numpy(golden[f"{name}_token_norms"])
    torch.testing.assert_close(ours.double().norm(dim=-1), norms, rtol=RELATIVE, atol=0)
    # Single values cross zero: the tolerance is relative to the tensor's root mean square.
    scale = golden[name][0] / ours.numel() ** 0.5
    corner = torch.from_numpy(golden[f"{name}_corner"])
    torch.testing.assert_close(ours[:, :4, :24], corner, rtol=RELATIVE, atol=RELATIVE * scale)


@pytest.mark.parametrize("target", ["plain", "normalised"])
def test_loss_and_every_gradient_equal_official(
    golden: dict[str, NDArray[Any]], images: Tensor, masking: Masking, target: str
) -> None:
    model = build(target={"plain": "pixels", "normalised": "pixels_norm"}[target])
    draw_weights(official_names(model))
    loss = model(images, masking)
    loss.backward()
    assert loss.item() == pytest.approx(golden[f"loss_{target}"].item(), rel=RELATIVE)
    gradients = {name: p.grad for name, p in official_names(model).items() if p.requires_grad}
    assert sorted(gradients) == golden["parameters"].tolist()
    for name, official in zip(golden["parameters"].tolist(), golden[f"gradients_{target}"], strict=True):
        assert_same_sketch(name, gradients[name], official)


def test_initialisation_has_the_official_statistics() -> None:
    torch.manual_seed(1)
    values: dict[str, list[Tensor]] = {}
    for name, parameter in official_names(build(target="pixels_norm")).items():
        kind = re.sub(r"\.\d+\.", ".N.", name)
        values.setdefault(kind, []).append(parameter.detach().double().flatten())
    official = figures("initialisation")
    assert values.keys() == official.keys()
    for kind, (count, mean, std, low, high) in official.items():
        ours = torch.cat(values[kind])
        assert ours.numel() == count, kind
        found = [f.item() for f in (ours.mean(), ours.std(), ours.min(), ours.max())]
        if std == 0 or kind.endswith("pos_embed"):  # nothing is drawn
            assert found == pytest.approx([mean, std, low, high], rel=1e-6, abs=1e-9), kind
            continue
        # Two samples of `count` draws: five standard errors of a difference in mean and in standard deviation. A uniform
        # distribution's ends are met to some 1/count of its width, a normal one's (the tokens) are not.
        error = 5 * (2 / count) ** 0.5
        assert found[0] == pytest.approx(mean, abs=error * std), kind
        assert found[1] == pytest.approx(std, rel=error), kind
        ends = 2 * std if kind.endswith("token") else 50 * std / count
        assert found[2:] == pytest.approx([low, high], abs=ends), kind
