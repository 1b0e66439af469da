"""``module:package.file:function``: a net of the user's, from a file of the test's own."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.contract import Encoder
from backbones.encoders.timm_models import registered
from backbones.errors import UserError
from backbones.vit.param_groups import param_groups

WRAP = "mean=[0.5] * 3, std=[0.25] * 3, img_size=32, interpolation='bilinear', crop_pct=0.9"
GOOD = f"""
    import mae_bench
    from torch import nn

    def encoder():
        net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Conv2d(8, 12, 1))
        return mae_bench.Encoder.wrap(net, layers=["0", "2"], {WRAP})

    def tokens():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches = nn.Conv2d(3, 8, 8, 8)
                self.token = nn.Parameter(torch.randn(1, 2, 8))
            def both(self, images):
                return torch.cat([self.token.expand(len(images), -1, -1), self.patches(images).flatten(2).mT], 1)
        import torch
        return mae_bench.Encoder.wrap(Net(), features=lambda net, x: net.both(x), prefix_tokens=2, class_token=True, {WRAP})

    def stages():
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)
            def forward(self, images):
                fine = self.first(images)
                return [fine, self.second(fine)]
        return mae_bench.Encoder.wrap(Net(), {WRAP})
"""
BAD = f"""
    import mae_bench, torch
    from torch import nn

    NET = nn.Conv2d(3, 8, 8, 8)

    def raises():
        raise RuntimeError("no weights here")

    def no_module():
        return 3

    def no_preprocessing():
        return NET

    def half_said():
        return mae_bench.Encoder.wrap(NET, mean=[0.5] * 3, std=[0.5] * 3)

    def two_means():
        return mae_bench.Encoder.wrap(NET, **{{**dict({WRAP}), "mean": [0.5] * 2}})

    def wrong_shape():
        return mae_bench.Encoder.wrap(NET, features=lambda net, x: net(x).mean((2, 3)), {WRAP})

    def of_255():
        return mae_bench.Encoder.wrap(NET, **{{**dict({WRAP}), "mean": [123.7, 116.3, 103.5]}})

    def one_for_all():
        return mae_bench.Encoder.wrap(NET, features=lambda net, x: torch.zeros(1, 16, 8), {WRAP})

    def no_grid():
        return mae_bench.Encoder.wrap(NET, features=lambda net, x: torch.zeros(len(x), 7, 8), {WRAP})

    def forward_raises():
        return mae_bench.Encoder.wrap(nn.Linear(3, 4), {WRAP})

    def not_finite():
        return mae_bench.Encoder.wrap(NET, features=lambda net, x: net(x) * float("nan"), {WRAP})

    def of_the_batch():
        return mae_bench.Encoder.wrap(NET, features=lambda net, x: net(x) - net(x).mean(0, keepdim=True), {WRAP})

    def statistics_of_the_batch():
        class Stays(nn.BatchNorm2d):
            def train(self, mode=True):
                return super().train(True)
        return mae_bench.Encoder.wrap(nn.Sequential(NET, Stays(8).train()), {WRAP})

    def chance():
        return mae_bench.Encoder.wrap(NET, features=lambda net, x: nn.functional.dropout(net(x), 0.5), {WRAP})

    def no_such_layer():
        return mae_bench.Encoder.wrap(NET, layers=["blocks.0"], {WRAP})
"""

Plugin = Callable[[str, str], str]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    """Writes a module and gives ``module:NAME:FUNCTION``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str, function: str) -> str:
        name = f"nets_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return f"module:{name}:{function}"

    return write


def test_a_module_of_one_map(plugin: Plugin) -> None:
    checkpoint = load_checkpoint(plugin(GOOD, "encoder"))
    assert (checkpoint.method, checkpoint.layout, checkpoint.plain) == ("encoder", "plug-in", None)
    assert checkpoint.preprocessing.mean == (0.5, 0.5, 0.5)
    assert checkpoint.preprocessing.source["mean"] == "the plug-in (Encoder.wrap)"
    encoder = checkpoint.open()
    images = torch.randn(2, 3, 32, 32)
    assert encoder(images).shape == (2, 12, 4, 4)
    assert encoder.pool(encoder(images), "mean").shape == (2, 12)
    assert [stage.stride for stage in encoder.stages] == [8]
    assert encoder.layer_of["net.net.0.weight"] < encoder.layer_of["net.net.2.weight"] < encoder.head_layer


def test_a_module_of_tokens(plugin: Plugin) -> None:
    encoder = load_checkpoint(plugin(GOOD, "tokens")).open()
    features = encoder(torch.randn(2, 3, 32, 32))
    assert (encoder.class_token, encoder.prefix_tokens) == (True, 2)
    assert torch.equal(encoder.pool(features, "cls"), features[:, 0])
    assert torch.equal(encoder.pool(features, "mean"), features[:, 2:].mean(dim=1))
    assert encoder.maps(torch.randn(1, 3, 32, 64))[0].shape == (1, 8, 4, 8)


def test_a_module_of_stages(plugin: Plugin) -> None:
    encoder = load_checkpoint(plugin(GOOD, "stages")).open()
    assert [(stage.width, stage.stride) for stage in encoder.stages] == [(8, 4), (16, 8)]
    assert encoder.hierarchical
    assert [tuple(m.shape) for m in encoder.maps(torch.randn(1, 3, 64, 64))] == [(1, 8, 16, 16), (1, 16, 8, 8)]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "RuntimeError: no weights here"),
        ("no_module", "returns int"),
        ("no_preprocessing", "does not say its preprocessing"),
        ("half_said", "img_size"),
        ("two_means", "give three numbers"),
        ("of_255", r"three numbers \(RGB\) of pixels in 0\.\.1"),
        ("wrong_shape", r"features of two images gave \(2, 8\)"),
        ("one_for_all", r"features of two images gave \(1, 16, 8\)"),
        ("no_grid", "7 patch tokens make no grid"),
        ("forward_raises", "two images of 32 x 32 px"),
        ("not_finite", "finite"),
        ("of_the_batch", "must hang on the image alone"),
        ("statistics_of_the_batch", "BatchNorm"),
        ("chance", "dropout"),
        ("no_such_layer", "no such submodules"),
        ("nothing", "has no attribute 'nothing'"),
    ],
)
def test_what_a_plug_in_does_wrong_is_one_line(plugin: Plugin, function: str, said: str) -> None:
    source = plugin(BAD, function)
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["module:", "module:some.file", "module::f"])
def test_a_name_that_is_none(source: str) -> None:
    with pytest.raises(UserError, match=r"give module:package\.file:function"):
        load_checkpoint(source)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UserError, match="ModuleNotFoundError"):
        load_checkpoint("module:no_such_module_here:f")


def test_weights_and_preprocessing_are_part_of_a_job_s_identity(plugin: Plugin) -> None:
    seeded = "    import torch; torch.manual_seed({})\n" + GOOD
    first = load_checkpoint(plugin(seeded.format(0), "encoder"))
    assert first.identity != first.sha256


def test_layer_decay_asks_for_the_layers(plugin: Plugin) -> None:
    encoder = load_checkpoint(plugin(GOOD, "stages")).open()  # which names none
    assert param_groups(encoder, weight_decay=0.1, **encoder.layer_rules)
    with pytest.raises(UserError, match=r"optimizer\.layer_decay=null"):
        param_groups(encoder, weight_decay=0.1, layer_decay=0.75, **encoder.layer_rules)


def test_a_net_of_timm_that_groups_no_layers_has_one() -> None:
    """timm's MetaFormer, PiT and CSATv2 have no ``group_matcher``."""
    model = registered("poolformerv2_s12")
    encoder = Encoder(model.outline()[0], model.preprocessing(), arch=model.arch)
    assert set(encoder.layer_of.values()) == {0}
    assert encoder.head_layer == 1


def test_the_api_has_the_contract() -> None:
    import mae_bench

    assert mae_bench.Encoder is Encoder
