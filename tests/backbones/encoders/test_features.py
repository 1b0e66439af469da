"""Features are the encoder's own tokens: every patch visible, in order, and normalised where that is said."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.encoders.features import choose, image_features
from backbones.errors import UserError
from backbones.vit.encoder import create_encoder
from tests.encoders import MAE, of_vit


def encoder(**options: object) -> Encoder:
    torch.manual_seed(0)
    model = create_encoder("vit_micro_patch8", img_size=(24, 32), **options)  # type: ignore[arg-type]
    nn.init.normal_(model.norm.weight)  # a norm that does something of its own
    return of_vit(model.eval())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def one(model: Encoder, images: Tensor, kind: str, layer: int = -1, norm: str = "last") -> Tensor:
    (feature,) = image_features(model, images, choose(model, [kind], [layer], norm))
    return feature


def test_features_of_the_last_layer_are_what_the_encoder_returns(images: Tensor) -> None:
    model = encoder()
    tokens = model.forward_features(images)  # (N, 1 + L, D), final norm applied
    assert torch.equal(one(model, images, "cls"), tokens[:, 0])
    assert torch.equal(one(model, images, "patch"), tokens[:, 1:])
    assert torch.equal(one(model, images, "mean"), tokens[:, 1:].mean(dim=1))


def test_an_earlier_layer_is_the_output_of_its_block(images: Tensor) -> None:
    model = encoder()
    seen: list[Tensor] = []
    hook = model.blocks[1].register_forward_hook(lambda *call: seen.append(call[2]))
    model(images)
    hook.remove()
    assert torch.equal(one(model, images, "patch", layer=1), seen[0][:, 1:])
    assert torch.equal(one(model, images, "cls", layer=1, norm="all"), model.norm(seen[0])[:, 0])


@pytest.mark.parametrize(("norm", "normed"), [("last", [False, True]), ("all", [True, True]), ("none", [False, False])])
def test_a_feature_says_whether_the_final_norm_was_applied(norm: str, normed: list[bool]) -> None:
    assert [feature.norm for feature in choose(encoder(), ["cls"], [2, 3], norm)] == normed


def test_an_encoder_without_final_norm_says_so(images: Tensor) -> None:
    model = encoder()
    model.net.norm = nn.Identity()
    assert not any(feature.norm for feature in choose(model, ["mean"], [0, 3], "all"))


def test_patch_tokens_keep_the_order_of_the_image(images: Tensor) -> None:
    # Without positions and blocks a token knows its own patch alone.
    model = encoder()
    nn.init.zeros_(model.pos_embed)
    for block in model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.mlp.fc2.weight)
        nn.init.zeros_(block.mlp.fc2.bias)
    changed = images.clone()
    changed[:, :, 8:16, 24:32] += 1  # second row, last column of a grid of 3 x 4
    differs = (one(model, images, "patch") - one(model, changed, "patch")).abs().amax(dim=(0, 2)) > 0
    assert differs.nonzero().flatten().tolist() == [7]


def test_registers_are_no_patches(images: Tensor) -> None:
    model = encoder(reg_tokens=3)
    tokens = model.forward_features(images)
    assert torch.equal(one(model, images, "patch"), tokens[:, 4:])
    assert torch.equal(one(model, images, "mean"), tokens[:, 4:].mean(dim=1))


def test_an_encoder_without_class_token_has_the_other_features(images: Tensor) -> None:
    model = encoder(class_token=False, global_pool="avg", fc_norm=False)
    assert torch.equal(one(model, images, "patch"), model.forward_features(images))
    with pytest.raises(UserError, match="has no class token: give own, mean or patch"):
        choose(model, ["mean", "cls"])


def test_each_feature_comes_once_with_its_name_and_shape(images: Tensor) -> None:
    model = encoder()
    wanted = choose(model, ["cls", "patch", "cls"], [-1, 1, 3])
    assert [(f.name, f.shape) for f in wanted] == [
        ("cls-layer3", (128,)),
        ("cls-layer1", (128,)),
        ("patch-layer3", (12, 128)),
        ("patch-layer1", (12, 128)),
    ]
    for feature, found in zip(wanted, image_features(model, images, wanted), strict=True):
        assert found.shape == (2, *feature.shape)
        assert torch.equal(found, one(model, images, feature.kind, feature.layer))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["clss"],), ['"clss"', '"cls"', "--features"]),
        ((["cls"], [4]), ["--layers 4", "0 to 3"]),
        ((["cls"], [-5]), ["--layers -5", "-4 to -1"]),
        ((["cls"], [0], "lats"), ['"lats"', '"last"', "--norm"]),
        (([],), ["at least one"]),
        ((["cls"], []), ["at least one"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[list[str]], words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        choose(encoder(), *arguments)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_encoder_with_relative_positions_only_has_them_in_its_features(images: Tensor) -> None:
    model = encoder(relative_bias=True, pos_embed="none")
    tokens = model.forward_features(images)
    assert torch.equal(one(model, images, "cls"), tokens[:, 0])
    nn.init.normal_(model.blocks[0].attn.rel_bias)
    assert not torch.equal(one(model, images, "cls"), tokens[:, 0])


def test_own_is_how_the_encoder_pools_for_its_head(images: Tensor) -> None:
    assert torch.equal(one(encoder(), images, "own"), one(encoder(), images, "cls"))
    with pytest.raises(UserError, match="--features own: the encoder pools its last output"):
        choose(encoder(), ["own"], [1])


ANY = {
    "vit_base_patch16_siglip_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2)},
}


@pytest.mark.parametrize("name", ANY)
@torch.no_grad()
def test_features_of_other_nets_are_timms(name: str) -> None:
    model = Encoder(timm.create_model(name, num_classes=0, **ANY[name]).eval(), MAE, arch=name)
    images = torch.randn(1, 3, *model.img_size)
    final = model.net.forward_features(images)
    kinds = ["own", "mean", "patch"]
    own, mean, patches = image_features(model, images, choose(model, kinds))
    torch.testing.assert_close(own, model.net.forward_head(final, pre_logits=True))
    assert patches.shape[1:] == choose(model, ["patch"])[0].shape
    torch.testing.assert_close(mean, patches.mean(dim=1))
    inner = choose(model, ["patch", "mean"], [0])
    found = image_features(model, images, inner)
    assert [f.shape[1:] for f in found] == [f.shape for f in inner]
    first = model.net.forward_intermediates(images, indices=[0], intermediates_only=True)[0]
    torch.testing.assert_close(found[0], first.flatten(2).transpose(1, 2))
