"""An ablation suite, cut down: rows pre-train under its base, are fine-tuned and probed, and fill the paper's Table 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones.checkpoints.checkpoint import load_checkpoint
from mae_bench.records.record import find
from tests.conftest import Result
from tests.end_to_end.tiny import EMBEDDED

Cli = Callable[..., Result]
SUITE = """
base: pretrain/vit_micro_patch8_embedded_ablations
pretrain:
  - pretrain/ablations/default
  - pretrain/ablations/decoder_depth_2  # the base's own depth: the default once more
  - pretrain/ablations/decoder_depth_1
  - pretrain/ablations/mask_tokens_in_encoder
  - pretrain/ablations/target_tokens
  - {broken}
set: ["pretrain:data.limit_train=40", "pretrain:train.batch_size=20", "pretrain:mae.vocabulary=16"]
jobs:
  - {{recipe: finetune/vit_micro_patch8_embedded, init: [checkpoint]}}
  - {{recipe: linear/vit_micro_patch8_embedded, init: [checkpoint]}}
tables: [table1]
"""
SHORT = [*EMBEDDED, "--set", "finetune:schedule.epochs=1", "--set", "linear:schedule.epochs=1"]
SHORT += ["--set", "finetune:train.batch_size=40", "--set", "linear:train.batch_size=40"]


@pytest.mark.slow
def test_a_suite_of_rows_fills_table_1(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("base: default\nmae: {mask_ratio: 0.999}\n")  # leaves no patch visible
    suite = tmp_path / "suite.yaml"
    suite.write_text(SUITE.format(broken=tmp_path / "broken.yaml"))
    out = tmp_path / "runs"
    result = cli("run", "--suite", suite, *SHORT, "--out", out)

    assert result.code == 1, "a pre-training that fails is told"
    assert "failed: pretrain/broken-scratch-s0: mae.mask_ratio=0.999 leaves none" in result.err
    table = json.loads(cli("table", "table1", "--runs", out, "--format", "json").out)
    parts = {part["name"]: ours(part) for part in table["parts"]}
    assert parts == {
        "table1a": {"1", "2"},
        "table1b": {"128"},
        "table1c": {"encoder w/ [M]", "encoder w/o [M]"},
        "table1d": {"pixel (w/o norm)", "dVAE token"},
        "table1e": {"crop, rand size"},
        "table1f": {"random 75"},
    }
    flops = {row["method"]: row["cells"]["our FLOPs"]["ours_mean"] for row in table["parts"][2]["rows"]}
    assert flops["encoder w/o [M]"] == 1.0
    assert flops["encoder w/ [M]"] > 1.5
    printed = cli("table", "table1", "--runs", out).out
    assert "| 1      |        84.8 |   65.5 |" in printed  # the paper's layout, ours to the right
    assert result.out.splitlines()[0].split()[:2] == ["start", "finetune"]  # many starts: a row each

    known(out)
    again = cli("run", "--suite", suite, *SHORT, "--out", out)
    assert again.out == result.out
    assert again.err.count("done already") == 12


def ours(part: dict[str, Any]) -> set[str]:
    """Rows with a fine-tuned and a probed figure of ours."""
    wanted = ("our fine-tuning", "our linear")
    return {r["method"] for r in part["rows"] if all(r["cells"][c]["ours_mean"] is not None for c in wanted)}


def known(out: Path) -> None:
    """Four pre-trainings, two jobs each: every record and export says what the pre-training was."""
    records = find(out)
    assert len(records) == 12
    assert len({r.name for r in records}) == 12
    for record in records:
        said = record.init.pretraining
        assert said is not None
        assert said["settings"]["encoder.arch"] == "vit_micro_patch8"
        assert said["images"] == 40
        assert record.path is not None
        if record.protocol == "pretrain":
            assert load_checkpoint(record.path.parent).metadata["pretraining"] == said
            assert load_checkpoint(record.path.parent / "mae.safetensors").metadata["pretraining"] == said
        else:
            assert record.init.checkpoint is not None
            changed = {"default": [], "decoder_depth_1": ["mae.decoder_depth"], "target_tokens": ["mae.target"]}
            changed["mask_tokens_in_encoder"] = ["mae.encoder_mask_tokens"]
            row = next(name for name in changed if f"/{name}-scratch" in record.init.checkpoint)
            assert said["changed"] == changed[row]
            assert row in record.name
