"""`mae-bench check`: a tolerance holds or it does not; what cannot be compared is no pass; people's edits of the file stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mae_bench.check import ci, show
from mae_bench.check.baseline import Baseline, load, update
from mae_bench.check.compare import compare
from mae_bench.records import record
from mae_bench.records.groups import group_runs
from mae_bench.records.record import Device, Metrics, Record
from tests.mae_bench.made_records import EMBEDDED, make

CELL = "finetune/vit_micro, MAE, vit_micro_patch8 48 px, embedded"


def runs(folder: Path, *records: Record) -> Path:
    for i, one in enumerate(records):
        (folder / str(i)).mkdir(parents=True)
        record.write(one, folder / str(i))
    return folder


def seeds(*top1: float, **changes: Any) -> list[Record]:
    return [make(seed=i, metrics={"top1": value}, **changes) for i, value in enumerate(top1)]


def baseline(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def held(path: Path, tolerance: str, value: str = "68.0", std: str = "") -> Path:
    figure = f"value: {value}" + (f", std: {std}" if std else "")
    return baseline(
        path,
        f'schema_version: 1\nmetrics:\n  top1: {tolerance}\ncells:\n  "{CELL}":\n    metrics:\n      top1: {{{figure}}}\n',
    )


@pytest.mark.parametrize(
    ("tolerance", "std", "now", "state"),
    [
        ("{absolute: 1}", "", 67.0, "holds"),
        ("{absolute: 1}", "", 66.9, "regressed"),
        ("{absolute: 1}", "", 69.1, "improved"),
        ("{absolute: 1, two_sided: true}", "", 69.1, "regressed"),
        ("{absolute: 1, better: lower}", "", 69.1, "regressed"),
        ("{absolute: 1, better: lower}", "", 66.9, "improved"),
        ("{relative: 0.05}", "", 64.7, "holds"),
        ("{relative: 0.05}", "", 64.5, "regressed"),
        ("{stds: 2}", "0.5", 67.1, "holds"),
        ("{stds: 2}", "0.5", 66.9, "regressed"),
        ("{absolute: 0.1, stds: 2}", "0.5", 67.1, "holds"),  # the widest counts
        ("{stds: 2}", "", 68.0, "not compared"),  # one seed has no spread
        ("{absolute: 0}", "", 68.0, "holds"),
        ("{absolute: 0}", "", 67.99, "regressed"),
    ],
)
def test_a_figure_may_move_by_its_tolerance(tmp_path: Path, tolerance: str, std: str, now: float, state: str) -> None:
    verdict = compare(load(held(tmp_path / "b.yaml", tolerance, std=std)), group_runs(seeds(now)))
    assert [finding.state for finding in verdict.findings] == [state]


@pytest.mark.parametrize(
    ("value", "now", "state"),
    [("null", None, "holds"), ("68.0", None, "regressed"), ("null", 68.0, "improved")],
)
def test_not_a_number_is_worse_than_any_number(tmp_path: Path, value: str, now: float | None, state: str) -> None:
    verdict = compare(
        load(held(tmp_path / "b.yaml", "{absolute: 1}", value)), group_runs([make(metrics={"top1": now})])
    )
    assert [finding.state for finding in verdict.findings] == [state]


@given(
    st.lists(st.floats(1, 100), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
    st.sampled_from(["higher", "lower"]),
)
def test_what_a_baseline_was_taken_from_holds_against_it(
    tmp_path_factory: pytest.TempPathFactory, top1: list[float], speed: float, better: str
) -> None:
    cells = group_runs(seeds(*top1, images_per_s=speed))
    path = tmp_path_factory.mktemp("held") / "b.yaml"
    path.write_text(
        f"schema_version: 1\nmetrics: {{top1: {{absolute: 0, better: {better}}}, images_per_s: {{relative: 0}}}}\ncells: {{}}\n"
    )
    verdict = compare(update(path, cells), cells)
    assert (verdict.code, verdict.counts) == (0, {"holds": 2})


@settings(max_examples=60)
@given(st.text(min_size=1, max_size=200))
@example("0\x85")  # NEL, which YAML takes for the end of a line
@example("it's \x85: # a b")
@example("\u2028 \u2029")
@example("\x7f\x9f\ufeff\x1b[2J")
@example("two\nlines")
def test_a_name_may_be_any_text(tmp_path_factory: pytest.TempPathFactory, method: str) -> None:
    cells = group_runs(seeds(68.0, method=method))
    path = tmp_path_factory.mktemp("named") / "b.yaml"
    assert compare(update(path, cells), cells).code == 0
    assert compare(update(path, cells), cells).counts == {"holds": 1}  # found again, not added


def with_speed(path: Path, records: list[Record]) -> Baseline:
    """A baseline that somebody asked to hold the speed of training."""
    update(path, group_runs(records))
    path.write_text(
        path.read_text().replace("metrics:\n", "metrics:\n  images_per_s: {relative: 0.25, better: higher}\n", 1)
    )
    return update(path, group_runs(records))


def test_speeds_are_held_where_the_file_asks_for_them_on_the_same_hardware_only(tmp_path: Path) -> None:
    slow = replace(make(), images_per_s=100.0)
    other = replace(slow, device=Device(name="another processor", count=1, type="cpu"))
    assert compare(update(tmp_path / "quiet.yaml", group_runs([make()])), group_runs([slow])).counts == {"holds": 1}
    held_ = with_speed(tmp_path / "b.yaml", [make()])
    assert compare(held_, group_runs([slow])).counts == {"regressed": 1, "holds": 1}
    verdict = compare(held_, group_runs([other]))
    assert (verdict.code, verdict.counts) == (0, {"skipped": 1, "holds": 1})
    skipped = next(finding for finding in verdict.findings if finding.state == "skipped")
    assert "another processor" in skipped.note
    assert "1 x a processor" in skipped.note


def test_what_is_missing_failed_or_ambiguous_could_not_be_compared(tmp_path: Path) -> None:
    held_ = update(tmp_path / "b.yaml", group_runs(seeds(68.0, 69.0)))
    other_data = replace(EMBEDDED, fingerprint="f" * 64)
    cases = [
        ([], "no finished run"),
        ([make(status="failed", error="out of disk")], "no finished run"),
        ([*seeds(68.0), *seeds(68.0, sha256="a" * 64)], "several runs of seed 0"),
        ([make(seed=0), make(seed=1, recipe_hash="b" * 64)], "2 different settings of the recipe"),
        ([make(data=other_data)], "other data"),
        ([make(metrics={"top5": 90.0})], "do not have this metric"),
    ]
    for records, says in cases:
        verdict = compare(held_, group_runs(records))
        assert verdict.code == 2, says
        assert says in verdict.findings[0].note


def test_a_regression_outweighs_what_could_not_be_compared(tmp_path: Path) -> None:
    held_ = update(tmp_path / "b.yaml", group_runs([*seeds(68.0), *seeds(40.0, protocol="linear")]))
    assert compare(held_, group_runs(seeds(50.0))).code == 1


def test_changed_settings_and_other_seeds_are_said(tmp_path: Path) -> None:
    held_ = update(tmp_path / "b.yaml", group_runs(seeds(68.0, 69.0)))
    verdict = compare(held_, group_runs(seeds(68.0, recipe_hash="b" * 64)))
    top1 = next(finding for finding in verdict.findings if finding.metric == "top1")
    assert top1.note == "the recipe's settings have changed; seeds 0, the baseline's 0, 1"


def test_the_same_job_in_two_folders_is_one_run() -> None:
    cells = group_runs([*seeds(68.0), *seeds(68.0)])
    assert [cell.problem for cell in cells.values()] == [None]
    assert cells[CELL].seeds == [0]


def test_a_baseline_takes_primary_metrics_and_no_speeds_with_tolerances_that_can_be_read(tmp_path: Path) -> None:
    records = [
        *seeds(68.0, 69.0),
        make(protocol="detection"),
        make(protocol="pretrain", metrics=Metrics(last={}), primary_metric=""),
    ]
    path = tmp_path / "b.yaml"
    cells = update(path, group_runs(records)).cells
    metrics = {name.split(",")[0]: [figure.metric for figure in cell.figures] for name, cell in cells.items()}
    assert metrics == {
        "finetune/vit_micro": ["top1"],
        "detection/vit_micro": ["box_ap", "mask_ap"],
        "pretrain/vit_micro": ["final_loss"],
    }
    assert "      top1: {value: 68.5, std: 0.707107}\n" in path.read_text()
    assert path.read_text().startswith("# What `mae-bench check` holds runs against.")


def test_an_update_keeps_what_people_wrote(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    update(path, group_runs([*seeds(68.0), *seeds(40.0, protocol="linear")]))
    text = path.read_text()
    text = text.replace("top1: {value: 68.0}", "top1: {value: 68.0, absolute: 3}  # noisy since May")
    text = text.replace("  top1: {absolute: 1.0", "  # agreed with everybody\n  top1: {absolute: 0.25")
    text = text.replace("metrics:\n  #", "metrics:\n  top5: {absolute: 2}\n  #")
    path.write_text(text)
    changed = [make(seed=0, metrics={"top1": 70.0, "top5": 91.0})]
    update(path, group_runs(changed))
    after = path.read_text()
    assert "top1: {value: 70.0, absolute: 3}  # noisy since May" in after
    assert "  # agreed with everybody\n  top1: {absolute: 0.25, stds: 2.0, better: higher}" in after
    assert "top5: {value: 91.0}" in after  # a metric added by hand is filled
    assert "top1: {value: 40.0}" in after  # a cell that was not run keeps its figures
    update(path, group_runs(changed))
    assert path.read_text() == after


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", "not readable as YAML"),
        ("schema_version: 1\nmetrics: {}\ncells: {}\nextra: 1\n", "'extra' was unexpected"),
        ("schema_version: 2\nmetrics: {}\ncells: {}\n", "schema_version: 1 was expected"),
        ("schema_version: 1\nmetrics: {top1: {absolut: 1}}\ncells: {}\n", "metrics > top1: "),
        ("schema_version: 1\nmetrics: {top1: {absolute: -1}}\ncells: {}\n", "metrics > top1 > absolute: -1"),
        ("schema_version: 1\nmetrics: {}\ncells: {a: {metrics: {}}, a: {metrics: {}}}\n", "duplicate key"),
        ("!!python/object/apply:os.system [true]", "the file: "),
        ("", "the file: "),
    ],
)
def test_a_bad_baseline_is_named_in_one_line(cli: Callable[..., Any], tmp_path: Path, text: str, says: str) -> None:
    path = baseline(tmp_path / "b.yaml", text)
    result = cli("check", "--runs", runs(tmp_path / "runs", make()), "--baseline", path)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert str(path) in result.err
    assert result.err.count("\n") == 1


def test_the_command_holds_regresses_and_cannot_compare(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    good = runs(tmp_path / "good", *seeds(68.0, 69.0))
    missing = cli("check", "--runs", good, "--baseline", path)
    assert (missing.code, "--update writes it" in missing.err) == (2, True)
    assert cli("check", "--runs", good, "--baseline", path, "--update").code == 0
    holds = cli("check", "--runs", good, "--baseline", path)
    assert (holds.code, holds.out.splitlines()[-1]) == (0, "holds: 1 holds")
    bad = cli("check", "--runs", runs(tmp_path / "bad", *seeds(58.0, 59.0)), "--baseline", path)
    assert bad.code == 1
    assert bad.out.splitlines()[1].split()[:2] == ["regressed", "finetune/vit_micro,"]
    assert "58.5 ± 0.7071  -10 " in bad.out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli("check", "--runs", empty, "--baseline", path).code == 2
    nothing = cli("check", "--runs", empty, "--baseline", path, "--update")
    assert (nothing.code, "no finished run" in nothing.err) == (2, True)


def test_a_failed_job_is_named_where_its_figure_is_missing(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    update(path, group_runs(seeds(68.0)))
    run_dir = tmp_path / "runs" / "finetune" / "x"
    run_dir.mkdir(parents=True)
    (run_dir / "job.json").write_text(json.dumps({"id": "1", "name": "finetune/vit_micro-MAE-s0"}))
    (run_dir / "status.json").write_text(json.dumps({"state": "failed", "error": "disk full"}))
    result = cli("check", "--runs", tmp_path / "runs", "--baseline", path)
    assert result.code == 2
    assert "finetune/vit_micro-MAE-s0 failed: disk full" in result.out


def test_json_is_whole_and_plain(cli: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")  # annotations go to stderr
    path = held(tmp_path / "b.yaml", "{absolute: 1}")
    result = cli("check", "--runs", runs(tmp_path / "r", *seeds(50.0)), "--baseline", path, "--json")
    content = json.loads(result.out)
    assert (content["result"], content["exit_code"], result.code) == ("regressed", 1, 1)
    finding = content["findings"][0]
    assert (finding["metric"], finding["baseline"], finding["now"], finding["change"]) == ("top1", 68.0, 50.0, -18.0)
    assert result.err.startswith("::error ")


HOSTILE = 'M,A:E%\n::error::<b>"&\x07'


def test_junit_is_xml_whatever_names_hold(tmp_path: Path) -> None:
    held_ = update(tmp_path / "b.yaml", group_runs([*seeds(68.0), *seeds(68.0, method=HOSTILE)]))
    verdict = compare(held_, group_runs(seeds(60.0, method=HOSTILE)))
    suite = ElementTree.fromstring(ci.junit(verdict)).find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "2",
        "failures": "1",
        "errors": "1",
        "skipped": "0",
    }
    failed = next(case for case in suite if case.find("failure") is not None)
    assert failed.get("name") == "top1"
    assert 'M,A:E% ::error::<b>"&' in str(failed.get("classname"))
    assert str(failed.find("failure").get("message")).startswith("top1 60, was 68: -8")  # type: ignore[union-attr]


def test_annotations_are_one_line_each_at_the_line_of_the_baseline(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    held_ = update(path, group_runs(seeds(68.0, method=HOSTILE)))
    verdict = compare(held_, group_runs(seeds(60.0, method=HOSTILE)))
    (line,) = ci.github(verdict, path, {"GITHUB_WORKSPACE": str(tmp_path)})
    properties, _, message = line.removeprefix("::error ").partition("::")
    found = dict(item.split("=", 1) for item in properties.split(","))
    assert found["file"] == "b.yaml"
    assert "top1: {value: 68.0}" in path.read_text().splitlines()[int(found["line"]) - 1]
    assert "M%2CA%3AE%25 %3A%3Aerror%3A%3A<b>" in found["title"]
    assert message.startswith("top1 60, was 68: -8")


def test_the_summary_page_gets_the_table(tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    verdict = compare(update(tmp_path / "b.yaml", group_runs(seeds(68.0))), group_runs(seeds(60.0, method="MAE")))
    ci.write_summary(verdict, {"GITHUB_STEP_SUMMARY": str(page)})
    assert "### mae-bench check: regressed: 1 regressed\n" in page.read_text()
    assert page.read_text() == show.as_markdown(verdict)
