"""One contract for every encoder: what tasks ask of it, for a plain ViT, a ViT of timm's and a net with stages."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.contract import Encoder, Stage
from backbones.errors import UserError

PLAIN = ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2})
ROTARY = ("vit_small_patch16_dinov3", {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2})
STAGED = ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)})


def written(folder: Path, name: str, args: dict) -> tuple[Path, nn.Module]:  # type: ignore[type-arg]
    """A folder as timm writes it, with random weights of every tensor, and timm's model."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **args).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_for_hf(net, folder, model_args=args, safe_serialization=True)
    return folder, net


@pytest.fixture(params=[PLAIN, ROTARY, STAGED], ids=lambda case: case[0])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Encoder, nn.Module]:
    folder, net = written(tmp_path / "model", *request.param)
    return load_checkpoint(folder).open().eval(), net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_timm(pair: tuple[Encoder, nn.Module], images: Tensor) -> None:
    encoder, net = pair
    with torch.no_grad():
        ours, theirs = encoder(images), net.forward_features(images)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        pooled = net.forward_head(theirs, pre_logits=True)
        torch.testing.assert_close(encoder.pool(ours, "own"), pooled, rtol=1e-5, atol=1e-6)


def test_maps_have_the_widths_and_strides_that_the_stages_say(pair: tuple[Encoder, nn.Module], images: Tensor) -> None:
    encoder, _ = pair
    for stage, found in zip(encoder.stages, encoder.maps(images), strict=True):
        assert found.shape == (2, stage.width, 32 // stage.stride, 32 // stage.stride)
    last, first = encoder.maps(images, [-1, 0])
    assert torch.equal(last, encoder.maps(images)[-1])
    assert torch.equal(first, encoder.maps(images)[0])


def test_pooled_features(pair: tuple[Encoder, nn.Module], images: Tensor) -> None:
    encoder, _ = pair
    features = encoder(images)
    assert encoder.pool(features, "mean").shape == (2, encoder.width)
    assert encoder.pool(features, "own").shape == (2, encoder.own_width)
    if encoder.class_token:
        assert torch.equal(encoder.pool(features, "cls"), features[:, 0])
    else:
        with pytest.raises(UserError, match="no class token"):
            encoder.pool(features, "cls")


def test_every_parameter_has_a_layer_and_layers_go_from_input_to_output(pair: tuple[Encoder, nn.Module]) -> None:
    encoder, _ = pair
    names = [name for name, _ in encoder.named_parameters()]
    assert set(names) == set(encoder.layer_of)
    assert encoder.layer_of[names[0]] == 0
    assert set(encoder.layer_of.values()) == set(range(encoder.layer_count))
    everything = encoder.trained_by(encoder.layer_count)
    assert len(everything) == len(names)
    assert len(encoder.trained_by(1)) < len(names)


def test_stages_of_a_vit_and_of_a_net_with_stages(tmp_path: Path) -> None:
    vit = load_checkpoint(written(tmp_path / "vit", *PLAIN)[0]).open()
    assert vit.stages == [Stage(192, 16)] * 2
    assert not vit.hierarchical
    assert vit.plain is vit.net
    net = load_checkpoint(written(tmp_path / "net", *STAGED)[0]).open()
    assert net.stages == [Stage(8, 4), Stage(16, 8), Stage(24, 16), Stage(32, 32)]
    assert net.hierarchical
    assert net.plain is None


def test_a_net_of_several_features_is_refused() -> None:
    from backbones.encoders.timm_models import registered

    model = registered("crossvit_tiny_240")
    encoder = Encoder(model.create(), model.preprocessing(), arch=model.arch)
    with pytest.raises(UserError, match="several features"):
        encoder(torch.zeros(1, 3, 240, 240))
