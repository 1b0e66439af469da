"""What is planned: which checkpoint starts what, in which order, by which name, and what a dry run says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from mae_bench.jobs.from_suite import from_suite
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Encoder, Request, _downstream, make_plan
from mae_bench.launchers.base import Settings
from mae_bench.launchers.gpus import launch as launch_on_gpus
from mae_bench.launchers.pool import choose
from mae_bench.launchers.slurm import minutes
from mae_bench.recipes.load import suite_names
from mae_bench.recipes.options import Options
from tests.conftest import Result

Cli = Callable[..., Result]


def write_suite(folder: Path, text: str, name: str = "suite") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def names(suite: str, **options: Sequence[int]) -> list[str]:
    return [step.name for step in make_plan(Request(suite=suite, options=Options(**options))).jobs]


TUNED = """
pretrain: pretrain/vit_micro_patch8_embedded
pretrain_seeds: [0, 1]
jobs:
  - {recipe: finetune/vit_micro_patch8_embedded, init: [checkpoint]}
  - {recipe: knn/vit_micro_patch8_embedded, init: [finetune/vit_micro_patch8_embedded]}
"""


def test_a_job_may_start_from_the_model_that_another_gave(tmp_path: Path) -> None:
    steps = make_plan(Request(suite=write_suite(tmp_path, TUNED), options=Options(seeds=[3, 4], pretrain_seeds=[0])))
    knn = steps["knn/vit_micro_patch8_embedded-MAE-s4"]
    assert knn.after == "finetune/vit_micro_patch8_embedded-MAE-s4"
    assert steps[knn.after].after == "pretrain/vit_micro_patch8_embedded-scratch-s0"


def test_seeds_of_a_pretraining_are_runs_of_their_own(tmp_path: Path) -> None:
    assert names(write_suite(tmp_path, TUNED)) == [
        "pretrain/vit_micro_patch8_embedded-scratch-s0",
        "finetune/vit_micro_patch8_embedded-MAE-pre0-s0",
        "knn/vit_micro_patch8_embedded-MAE-pre0-s0",
        "pretrain/vit_micro_patch8_embedded-scratch-s1",
        "finetune/vit_micro_patch8_embedded-MAE-pre1-s0",
        "knn/vit_micro_patch8_embedded-MAE-pre1-s0",
    ]


def test_suites_include_others_and_run_what_they_share_once(tmp_path: Path) -> None:
    write_suite(tmp_path, TUNED, "a")
    write_suite(tmp_path, TUNED.replace("knn/", "linear/"), "b")
    both = names(write_suite(tmp_path, "include: [a, b]"))
    assert len(both) == len(set(both)) == 8
    with pytest.raises(UserError, match="leads back to itself"):
        names(write_suite(tmp_path, "include: [c]", "c"))


def test_two_different_jobs_of_one_name_are_refused(tmp_path: Path) -> None:
    write_suite(tmp_path, TUNED, "a")
    write_suite(tmp_path, TUNED + 'set: ["finetune:schedule.epochs=1"]', "b")
    with pytest.raises(UserError, match="two different jobs would be called finetune/"):
        names(write_suite(tmp_path, "include: [a, b]"))


@pytest.fixture(scope="module")
def paper() -> JobPlan:
    return make_plan(Request(suite="paper"))


def test_the_papers_suite_has_every_table_and_no_job_before_what_it_starts_from(paper: JobPlan) -> None:
    assert {"table1", "table2", "table3", "table4", "table5", "table6", "table7", "table12", "table13"} <= {
        *paper.tables
    }
    assert {"fig5", "fig7", "fig9", "vitdet_coco", "vitdet_lvis"} <= {*paper.tables}
    seen: set[str | None] = {None}
    for step in paper.jobs:
        assert step.after in seen, step.name
        seen.add(step.name)
    robust = [step for step in paper.jobs if step.name.startswith("robustness/")]
    assert {step.after for step in robust} <= {s.name for s in paper.jobs if s.name.startswith("finetune/")}


def test_every_table_of_the_paper_has_a_suite() -> None:
    tables = {*(f"table{n}" for n in (1, 2, 3, 4, 5, 6, 7, 12, 13)), "fig5", "fig7", "fig9"}
    assert tables | {"quickstart", "paper", "smoke"} <= {*suite_names()}


def save_micro(path: Path) -> Path:
    from backbones.vit.encoder import create_encoder

    torch.save({"model": create_encoder("vit_micro_patch8", img_size=48).state_dict()}, path)
    return path


def test_several_checkpoints_are_told_apart_by_name(tmp_path: Path) -> None:
    file = save_micro(tmp_path / "a.pth")
    tasks = ["finetune"]
    two = [step.name for step in make_plan(Request([f"MAE={file}", f"DINO={file}"], tasks=tasks)).jobs]
    assert two == [f"finetune/vit_micro_patch8_embedded-{method}-s0" for method in ("MAE", "DINO")]
    with pytest.raises(UserError, match="tell them apart by --checkpoint NAME=FILE"):
        make_plan(Request([str(file), str(file)], tasks=tasks))
    with pytest.raises(UserError, match="suite table3 has nothing for a vit_micro_patch8"):
        make_plan(Request([str(file)], suite="table3"))


def test_what_nothing_tells_of_a_checkpoint_is_a_note_of_its_plan(tmp_path: Path) -> None:
    plan = make_plan(Request([str(save_micro(tmp_path / "mine.pth"))], tasks=["knn/vit_micro_patch8_embedded"]))
    assert plan.notes == ["attention heads of mine: family default: the standard size (micro)"]


def test_a_suite_may_bring_encoders_of_its_own_beside_its_pretraining(tmp_path: Path) -> None:
    """They are a row of the tables by their name; a checkpoint of the command line takes the place of all of them."""
    shipped = save_micro(tmp_path / "shipped.pth")
    path = write_suite(
        tmp_path,
        f"""
pretrain: pretrain/vit_micro_patch8_embedded
checkpoints: ["MAE, shipped={shipped}"]
jobs: [{{recipe: knn/vit_micro_patch8_embedded, init: [scratch, checkpoint]}}]
""",
    )
    jobs = make_plan(Request(suite=path)).jobs
    assert [(job.recipe.protocol, job.method) for job in jobs] == [
        ("pretrain", "scratch"),
        ("knn", "scratch"),
        ("knn", "MAE"),
        ("knn", "MAE, shipped"),
    ]
    assert [job.method for job in make_plan(Request(suite=path, checkpoints=[f"mine={shipped}"])).jobs] == [
        "scratch",
        "mine",
    ]


def test_a_dry_run_needs_no_data_and_says_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    command = ["run", "--suite", "table12", "--data", f"imagenet={tmp_path / 'nowhere'}", "--dry-run"]
    shown = cli(*command, "--out", tmp_path / "runs")
    assert shown.code == 0
    assert "GPU-hours to do: 2,763 for 2 jobs; not published for 4" in shown.out  # 42 h × 64 and 2 h 20 min × 32
    assert f"missing: --data imagenet={tmp_path / 'nowhere'}: no such file or folder" in shown.out
    told = json.loads(cli(*command, "--json", "--out", tmp_path / "runs").out)
    assert {job["state"] for job in told["jobs"]} == {"new"}
    assert not any(job["data_found"] for job in told["jobs"])
    assert not (tmp_path / "runs").exists()


def test_a_published_cost_is_of_the_recipe_as_it_stands(cli: Cli, tmp_path: Path) -> None:
    command = ["run", "--suite", "table12", "--dry-run", "--json", "--out", tmp_path]
    told = json.loads(cli(*command, "--set", "pretrain:schedule.epochs=100").out)
    assert {j["recipe"] for j in told["jobs"] if j["gpu_hours"] is not None} == {"linear/vit_base_patch16_imagenet"}


def step(name: str) -> PlannedJob:
    return make_plan(Request(tasks=[name], scratch="vit_micro_patch8")).jobs[0]


def test_the_job_that_needs_most_of_what_is_free_starts_first() -> None:
    small, large = step("finetune"), step("linear")
    needs = {small.name: 1, large.name: 3}
    assert choose([small, large], needs, 4) is large
    assert choose([small, large], needs, 2) is small
    assert choose([large], needs, 2) is None


def test_more_gpus_a_job_than_there_are_is_refused(tmp_path: Path) -> None:
    request = Request(tasks=["finetune"], scratch="vit_micro_patch8")
    with pytest.raises(UserError, match="--gpus-per-job 3: there are 2"):
        launch_on_gpus(request, make_plan(request), tmp_path, Settings(gpus=("0", "1"), gpus_per_job=3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("2:30:00", 150), ("1:30", 2), ("1-2", 1560), ("1-02:30", 1590), ("1-00:00:30", 1441)],
)
def test_slurms_times_are_read(text: str, expected: int) -> None:
    assert minutes(text) == expected


def test_a_time_that_is_none_is_named() -> None:
    with pytest.raises(UserError, match="--slurm time=soon: give minutes"):
        minutes("soon")


def test_a_request_says_itself_to_the_processes_of_a_launcher() -> None:
    options = Options({"": "/d", "coco": "/c"}, ["a.b=1"], [0, 1], [2])
    assert Request(["MAE=x"], tasks=["finetune", "knn"], options=options).arguments() == [
        *("--checkpoint", "MAE=x", "--data", "/d", "--data", "coco=/c", "--set", "a.b=1"),
        *("--tasks", "finetune,knn", "--seeds", "0,1", "--pretrain-seeds", "2"),
    ]


def test_a_job_of_a_suite_may_be_for_some_of_its_pretrainings_alone(tmp_path: Path) -> None:
    text = """
base: pretrain/vit_micro_patch8_embedded_ablations
pretrain: [pretrain/ablations/target_pixels_norm, pretrain/ablations/decoder_depth_1]
jobs:
  - {recipe: finetune/vit_micro_patch8_embedded, init: [checkpoint], after: pretrain/ablations/target_pixels_norm}
  - {recipe: knn/vit_micro_patch8_embedded, init: [checkpoint]}
"""
    tuned = [name for name in names(write_suite(tmp_path, text)) if name.startswith("finetune/")]
    assert tuned == ["finetune/vit_micro_patch8_embedded-MAE-target_pixels_norm-s0"]
    wrong = text.replace("after: pretrain/ablations/target_pixels_norm", "after: pretrain/ablations/target_pixel_norm")
    with pytest.raises(UserError, match=r'unknown after .*did you mean "pretrain/ablations/target_pixels_norm'):
        make_plan(Request(suite=write_suite(tmp_path, wrong)))


@pytest.mark.parametrize(
    ("method", "recipe"), [("MAE", ""), ("BEiT", ""), ("MoCo v3", "_moco_v3"), ("moco_v3", "_moco_v3")]
)
def test_table_4s_suite_has_the_learning_rate_of_each_method(method: str, recipe: str) -> None:
    jobs = from_suite("table4", Options(), pretrain=False).jobs
    started = _downstream(jobs, Encoder("vit_base_patch16", method))
    assert [job.recipe_name for job in started] == [f"detection_fpn/vit_base_patch16_coco{recipe}"]
