"""Suites become plans: several pre-trainings, each once, each with jobs of its own name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from mae_bench import api
from mae_bench.jobs.from_suite import Suite, from_suite
from mae_bench.jobs.from_tasks import from_tasks
from mae_bench.jobs.job import PlannedJob
from mae_bench.jobs.plan import Request, make_plan
from mae_bench.launchers import local
from mae_bench.recipes.options import Options
from mae_bench.records.record import Record
from tasks.classification.config import ClassificationRecipe

MICRO = "pretrain/vit_micro_patch8_embedded_ablations"


def suite(folder: Path, text: str) -> str:
    path = folder / "suite.yaml"
    path.write_text(text)
    return str(path)


def plan(folder: Path, text: str, *overrides: str) -> Suite:
    return from_suite(suite(folder, text), Options(overrides=overrides), pretrain=True)


ROWS = f"""
base: {MICRO}
pretrain: [pretrain/ablations/default, pretrain/ablations/decoder_depth_2, pretrain/ablations/decoder_depth_1]
set: ["finetune:schedule.epochs=3", "pretrain:schedule.epochs=4"]
jobs: [{{recipe: finetune/vit_micro_patch8_embedded, init: [scratch, checkpoint]}}]
tables: [table1a]
"""


def test_rows_get_the_suites_base_and_equal_ones_run_once(tmp_path: Path) -> None:
    made = plan(tmp_path, ROWS)
    names = [p.recipe_name for p in made.pretrainings]
    assert names == ["pretrain/ablations/default", "pretrain/ablations/decoder_depth_1"]
    assert [p.recipe.encoder.arch for p in made.pretrainings] == ["vit_micro_patch8"] * 2
    assert [(p.pretraining or {})["changed"] for p in made.pretrainings] == [[], ["mae.decoder_depth"]]


def test_the_command_lines_overrides_come_after_the_suites(tmp_path: Path) -> None:
    made = plan(tmp_path, ROWS, "pretrain:schedule.epochs=1")
    assert {p.recipe.schedule.epochs for p in made.pretrainings} == {1}
    assert {e.recipe.schedule.epochs for e in made.jobs} == {3}


def names(folder: Path, text: str, *, options: Options | None = None) -> list[str]:
    return [step.name for step in make_plan(Request(suite=suite(folder, text), options=options or Options())).jobs]


def test_jobs_are_named_after_their_pretraining_where_there_are_several(tmp_path: Path) -> None:
    assert names(tmp_path, ROWS) == [
        "pretrain/default-scratch-s0",
        "finetune/vit_micro_patch8_embedded-scratch-s0",
        "finetune/vit_micro_patch8_embedded-MAE-default-s0",
        "pretrain/decoder_depth_1-scratch-s0",
        "finetune/vit_micro_patch8_embedded-MAE-decoder_depth_1-s0",
    ]


def test_the_only_pretraining_is_not_in_the_names_of_its_jobs() -> None:
    assert [step.name for step in make_plan(Request(suite="quickstart")).jobs][:3] == [
        "pretrain/vit_micro_patch8_embedded-scratch-s0",
        "knn/vit_micro_patch8_embedded-scratch-s0",
        "linear/vit_micro_patch8_embedded-scratch-s0",
    ]


def test_a_pretraining_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(job: PlannedJob, _: object) -> Record:
        raise torch.OutOfMemoryError(f"no memory for\n{job.recipe.protocol}")

    monkeypatch.setattr(local, "run_job", out_of_memory)
    outcome = api.run(tmp_path / "runs", suite=suite(tmp_path, ROWS))
    assert list(outcome.not_run) == [
        "finetune/vit_micro_patch8_embedded-MAE-default-s0",
        "finetune/vit_micro_patch8_embedded-MAE-decoder_depth_1-s0",
    ]
    assert {name: said.partition(" (traceback")[0] for name, said in outcome.failures.items()} == {
        "pretrain/default-scratch-s0": "OutOfMemoryError: no memory for pretrain",
        "finetune/vit_micro_patch8_embedded-scratch-s0": "OutOfMemoryError: no memory for finetune",
        "pretrain/decoder_depth_1-scratch-s0": "OutOfMemoryError: no memory for pretrain",
    }
    assert "Traceback" not in capsys.readouterr().err
    kept = tmp_path / "runs/.plan/pretrain/default-scratch-s0.traceback.txt"
    assert kept.read_text().startswith("Traceback")


@pytest.mark.parametrize(
    "error", [SystemExit(0), RecursionError("too deep"), AssertionError()], ids=lambda e: type(e).__name__
)
def test_whatever_a_job_ends_with_is_its_failure_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def ends(_: PlannedJob, __: object) -> Record:
        raise error

    monkeypatch.setattr(local, "run_job", ends)
    outcome = api.run(tmp_path / "runs", suite=suite(tmp_path, ROWS))
    assert len(outcome.failures) == 3
    assert all(said.startswith(type(error).__name__) for said in outcome.failures.values())


def test_with_a_checkpoint_no_pretraining_is_planned(tmp_path: Path) -> None:
    assert from_suite(suite(tmp_path, ROWS), Options(), pretrain=False).pretrainings == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pretrian: x", 'did you mean "pretrain"'),
        ("pretrain: [pretrain/ablations/defalt]", 'did you mean "pretrain/ablations/default"'),
        ("pretrain: {a: b}", "pretrain: give a text or a list of texts"),
        ("set: [3]", "set: give a text or a list of texts"),
        ("base: nowhere\npretrain: pretrain/ablations/default", '"nowhere"'),
    ],
)
def test_a_mistake_in_a_suite_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        plan(tmp_path, text)


@pytest.fixture(scope="module")
def shipped() -> dict[str, Suite]:
    return {s: from_suite(s, Options(), pretrain=True) for s in ("table1", "fig5", "fig7", "ablations_embedded")}


def test_the_papers_suites_hold_each_of_its_models_once(shipped: dict[str, Suite]) -> None:
    for name, count in {"table1": 19, "fig5": 10, "fig7": 5}.items():
        assert len(shipped[name].pretrainings) == count
        assert {p.recipe.encoder.arch for p in shipped[name].pretrainings} == {"vit_large_patch16"}
        assert {e.recipe.protocol for e in shipped[name].jobs} == {"finetune", "linear"}


def test_the_embedded_suite_holds_all_rows_of_table_1_and_figure_5(shipped: dict[str, Suite]) -> None:
    micro = {p.recipe_name for p in shipped["ablations_embedded"].pretrainings}
    large = {p.recipe_name for s in ("table1", "fig5") for p in shipped[s].pretrainings}
    # Each default has other values: those of the micro model are two blocks, 128 wide.
    assert micro - large == {f"pretrain/ablations/decoder_{x}" for x in ("depth_8", "width_512")}
    assert large - micro == {f"pretrain/ablations/decoder_{x}" for x in ("depth_2", "width_128")}


def chosen(task: str, arch: str, *data: str) -> list[str]:
    return [e.recipe_name for e in from_tasks([task], arch, None, Options(data=dict.fromkeys(data, "/"))).jobs]


def test_of_several_recipes_for_a_data_set_the_plainly_named_is_meant() -> None:
    """finetune/ has FINETUNE.md's values, Table 9's, 448 px and shares of the labels for the same model and data."""
    assert chosen("finetune", "vit_huge_patch14", "imagenet") == ["finetune/vit_huge_patch14_imagenet"]
    assert chosen("partial", "vit_large_patch16", "imagenet") == ["partial/vit_large_patch16_imagenet"]


def test_every_data_set_that_is_given_gets_its_recipe() -> None:
    names = chosen("robustness", "vit_large_patch16", "imagenet_r", "imagenet_c")
    assert names == [f"robustness/vit_large_patch16_imagenet_{name}" for name in ("c", "r")]


def test_one_folder_for_recipes_of_several_data_sets_asks_which() -> None:
    with pytest.raises(UserError, match="several robustness recipes fit vit_base_patch16: name the data set"):
        chosen("robustness", "vit_base_patch16", "")
    with pytest.raises(UserError, match="needs data: give --data imagenet_a=DIR"):
        chosen("robustness", "vit_base_patch16")
    assert chosen("scratch", "vit_base_patch16") == ["scratch/vit_base_patch16_embedded"]


def test_the_cifar10_suite_has_every_protocol_and_three_seeds_of_each() -> None:
    made = from_suite("cifar10", Options(seeds=[0, 1, 2]), pretrain=True)
    runs = Counter((e.recipe.protocol, e.start) for e in made.jobs)
    assert runs == {
        ("scratch", "scratch"): 3,
        ("finetune", "checkpoint"): 9,  # all labels, 1 % and 10 %
        ("partial", "checkpoint"): 15,
        ("linear", "checkpoint"): 3,
        ("knn", "checkpoint"): 3,
    }
    tuned = {e.recipe.head.tune_blocks for e in made.jobs if isinstance(e.recipe, ClassificationRecipe)}
    assert tuned == {None, 0, 0.5, 1, 2, 4}


def test_scratch_and_fine_tuning_of_the_cifar10_suite_are_as_long_on_the_same_images() -> None:
    made = from_suite("cifar10", Options(), pretrain=True)
    scratch, tuned = (
        next(e.recipe for e in made.jobs if e.recipe_name == f"{p}/vit_micro_patch4_cifar10")
        for p in ("scratch", "finetune")
    )
    assert (scratch.schedule, scratch.data, scratch.train.batch_size) == (
        tuned.schedule,
        tuned.data,
        tuned.train.batch_size,
    )
