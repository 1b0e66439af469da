"""The Python API says itself: verbs, types, docstrings, version; wrong kinds of argument are named."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path
from typing import Any

import pytest

import mae_bench
from backbones.errors import UserError

VERBS = ("extract", "load_encoder", "pretrain", "reconstruct", "run", "table")


def test_dir_and_help_show_all_verbs() -> None:
    text = pydoc.plain(pydoc.render_doc(mae_bench))
    for verb in VERBS:
        assert verb in dir(mae_bench)
        assert f"{verb}(" in text
        function = getattr(mae_bench, verb)
        assert inspect.getdoc(function)
        hints = inspect.signature(function)
        assert hints.return_annotation is not inspect.Signature.empty
        assert all(p.annotation is not inspect.Parameter.empty for p in hints.parameters.values()), verb
    assert mae_bench.__version__ in text


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'evaluate'"):
        _ = mae_bench.evaluate  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tasks": "knn"}, r"tasks='knn': give a list of texts, such as \[\"finetune\", \"knn\"\]"),
        ({"tasks": ["knn"], "overrides": "optimizer.blr=1"}, "overrides='optimizer.blr=1': give a list of texts"),
        ({"tasks": ["knn"], "seeds": 3}, r"seeds=3: give a list of whole numbers, such as \[0, 1, 2\]"),
        ({"tasks": ["knn"], "seeds": ["3"]}, "seeds=.*whole numbers"),
        ({"tasks": ["knn"], "data": "/data"}, "data='/data': give a mapping"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        mae_bench.run(tmp_path / "runs", scratch="vit_micro_patch8", **arguments)
    assert not (tmp_path / "runs").exists()


def test_run_takes_overrides_and_data_as_the_command_line_does(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'unknown key "schedule\.epoch" in --set schedule\.epoch=1'):
        mae_bench.run(tmp_path, scratch="vit_micro_patch8", tasks=["finetune"], overrides=["schedule.epoch=1"])
    recipe = "finetune/vit_micro_patch8_embedded"
    with pytest.raises(UserError, match='unknown data set "imagenet" in --data'):
        mae_bench.run(tmp_path, scratch="vit_micro_patch8", tasks=[recipe], data={"imagenet": tmp_path})


def test_a_table_of_no_folder_is_refused() -> None:
    with pytest.raises(UserError, match="runs=nowhere: no such folder"):
        mae_bench.table("table3", "nowhere")
