"""Hugging Face's ViTMAEForPreTraining, live: the same weights give the same features, prediction, loss and every gradient.

Weights cross over as files, through our reader and writer, in both directions; both models mask by the same noise. Everything
within 1e-5 of the tensor's norm, in fp32.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.checkpoints.write_layouts import save_as
from backbones.mae.masking import mask_from_noise
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.patches import patchify
from backbones.vit.encoder import create_encoder
from tests.golden.figures import draw_weights, tensor

transformers = pytest.importorskip("transformers")

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tensor("images", (3, 3, 64, 64), scale=1.0, offset=0.1)


@pytest.fixture(scope="module")
def noise() -> Tensor:
    return torch.rand(3, 16, generator=torch.Generator().manual_seed(0))


def assert_close(ours: Tensor, theirs: Tensor, name: str = "") -> None:
    assert ours.shape == theirs.shape, name
    error = (ours.double() - theirs.double()).norm() / theirs.double().norm()
    assert error <= RELATIVE, f"{name}: off by {error:.1e} of its norm"


def through_files(model: nn.Module, folder: Path) -> tuple[MaskedAutoencoder, dict[str, Tensor]]:
    """Our model with their weights, and these under our names."""
    model.save_pretrained(folder)  # type: ignore[operator]
    checkpoint = load_checkpoint(folder)
    return checkpoint.masked_autoencoder(), {**checkpoint.state, **checkpoint.decoder}


def gradients_under_our_names(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Every parameter's gradient takes the parameter's place in a copy, and goes the way of the weights."""
    copy = deepcopy(model)
    for ours, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            ours.data.copy_(theirs.grad)
    return through_files(copy, folder)[1]


def assert_same_model(ours: MaskedAutoencoder, theirs: nn.Module, inputs: tuple[Tensor, Tensor], folder: Path) -> None:
    images, noise = inputs
    masking = mask_from_noise(noise, 0.75)
    output = theirs(images, noise=noise)
    assert torch.equal(masking.mask, output.mask)
    assert torch.equal(masking.ids_restore, output.ids_restore)
    assert_close(ours.forward_encoder(patchify(images, 16), masking), theirs.vit(images, noise=noise).last_hidden_state)
    assert_close(ours.predict(images, masking), output.logits, "prediction")
    loss = ours(images, masking)
    assert loss.item() == pytest.approx(output.loss.item(), rel=RELATIVE)
    loss.backward()
    output.loss.backward()
    expected = gradients_under_our_names(theirs, folder)
    trained = {name.removeprefix("encoder."): p for name, p in ours.named_parameters() if p.requires_grad}
    assert trained.keys() == expected.keys() - {"pos_embed", "decoder_pos_embed"}
    for name, parameter in trained.items():
        assert_close(parameter.grad, expected[name], name)


def their_model(norm_pix_loss: bool, norm_eps: float) -> nn.Module:
    config = transformers.ViTMAEConfig(
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=384,
        image_size=64,
        patch_size=16,
        decoder_hidden_size=64,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=256,
        layer_norm_eps=norm_eps,
        norm_pix_loss=norm_pix_loss,
    )
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(config)
    # Its initialisation leaves biases at zero, where gone ones would not be noticed.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


# The official eps, and the default of their configuration, which their published files have.
@pytest.mark.parametrize(("norm_pix_loss", "norm_eps"), [(True, 1e-6), (False, 1e-12)])
def test_their_weights_in_our_model_compute_the_same(
    images: Tensor, noise: Tensor, tmp_path: Path, norm_pix_loss: bool, norm_eps: float
) -> None:
    theirs = their_model(norm_pix_loss, norm_eps)
    ours, _ = through_files(theirs, tmp_path / "weights")
    assert_same_model(ours, theirs, (images, noise), tmp_path / "gradients")


def test_our_weights_in_their_model_compute_the_same(images: Tensor, noise: Tensor, tmp_path: Path) -> None:
    # An official file, as pre-training exports it; official decoders have 16 heads.
    ours = MaskedAutoencoder(
        create_encoder("vit_micro_patch16", img_size=64),
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=16,
    )
    draw_weights(dict(ours.named_parameters()))
    state = {name.removeprefix("encoder."): value for name, value in ours.state_dict().items()}
    torch.save({"model": state}, tmp_path / "ours.pth")
    checkpoint = load_checkpoint(tmp_path / "ours.pth")
    folder = save_as(checkpoint, tmp_path / "theirs", layout="hf")
    theirs, loading = transformers.ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert theirs.config.norm_pix_loss
    assert_same_model(ours, theirs.eval(), (images, noise), tmp_path / "gradients")
