"""`mae-bench report`: one file that needs nothing else, whatever runs hold; read in a browser, by eye, key and thumb."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mae_bench.records import record
from mae_bench.records.groups import group_runs
from mae_bench.records.record import Command, Git, Host, Init, Metrics, Record
from mae_bench.report import caution, curves, pictures, write_report
from tests.mae_bench import browser
from tests.mae_bench.made_records import make

HOSTILE = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>\"'&{{ 7 * 7 }}"
BASE = {"command": Command(argv=["mae-bench", "run", "--out", "a b"], folder="/home/me")}


def log_lines(*losses: float) -> str:
    lines = [{"kind": "train", "step": i, "epoch": i / 2, "loss": x, "lr": 0.1} for i, x in enumerate(losses, start=1)]
    lines += [{"kind": "val", "step": i, "epoch": i, "top1": 10.0 * i, "loss": 2.0} for i in (1, 2)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def put(folder: Path, one: Record, *, log: str = "", predictions: int = 0) -> Path:
    folder.mkdir(parents=True)
    record.write(one, folder)
    (folder / "log.jsonl").write_text(log)
    for i in range(predictions):
        (folder / "predictions").mkdir(exist_ok=True)
        Image.new("RGB", (1200, 300), (10 * i, 90, 160)).save(folder / "predictions" / f"{i}.png")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed, top1 in enumerate((67.0, 69.0)):
        changes = {**BASE, "metrics": {"top1": top1, "top5": 95.0}}
        put(folder / f"finetune{seed}", make(seed=seed, **changes), log=log_lines(2.0, 1.5, 1.0 + seed))
    put(folder / "scratch", make("scratch", metrics={"top1": 58.0}), log=log_lines(2.5))
    put(folder / "detection", make(protocol="detection"), predictions=2)
    put(folder / "linear", make(protocol="linear", status="failed", metrics=Metrics(last={}), error="out of disk"))
    return folder


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def page_of(runs: Path) -> str:
    out = runs.parent / "report.html"
    write_report(runs, out)
    return out.read_text()


def test_everything_is_in_one_file_that_asks_for_nothing(runs: Path) -> None:
    elements = Elements(page_of(runs))
    assert not [tag for tag, _ in elements.tags if tag in ("link", "iframe", "object", "embed")]
    assert not [a for tag, a in elements.tags if tag == "script" and "src" in a]
    sources = [str(a["src"]) for tag, a in elements.tags if tag == "img"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    links = [a.get("href") or a.get("xlink:href") for tag, a in elements.tags]
    assert all(link.startswith("#") for link in links if link)


def test_it_says_what_ran_what_came_out_and_what_failed(runs: Path) -> None:
    page = page_of(runs)
    text = " ".join(Elements(page).text.split())
    assert "4 runs done 1 failed" in text
    assert "68.0 ± 1.4" in text
    assert "1 job failed linear-MAE-seed0 (out of disk)" in text
    assert "Missing seeds" in text
    assert "mae-bench run --out 'a b'" in text
    assert page.count('class="curve"') == 2  # metric and loss of fine-tuning: both starts, all seeds
    assert "seeds 0, 1" in text
    sections = [a["id"] for tag, a in Elements(page).tags if tag == "section" and "id" in a and "class" not in a]
    assert sections == ["results", "curves", "pictures", "tables", "notes", "provenance"]
    assert "scratch 58.0 MAE 68.0 ± 1.4 (n=2) +10.0" in text
    ids = [a["id"] for tag, a in Elements(page).tags if "id" in a and tag in ("section", "table", "details")]
    assert len(ids) == len(set(ids))


def test_the_same_runs_give_the_same_bytes(runs: Path) -> None:
    assert page_of(runs) == page_of(runs)


def test_text_of_runs_is_text(tmp_path: Path) -> None:
    one = make(
        name=HOSTILE,
        init=Init(method=HOSTILE, checkpoint=HOSTILE, sha256="a" * 64, layout=HOSTILE, pretraining=None),
        recipe_name=HOSTILE,
        arch=HOSTILE,
        recipe={HOSTILE: HOSTILE},
        metrics={HOSTILE: 1.0},
        warnings=[HOSTILE],
        recovered={HOSTILE: 1},
        software={HOSTILE: HOSTILE},
        data=replace(make().data, name=HOSTILE, root=HOSTILE, notes=[HOSTILE]),
        device=replace(make().device, name=HOSTILE),
        command=Command(argv=[HOSTILE], folder=HOSTILE),
        host=Host(name=HOSTILE, system=HOSTILE, cpus=1, threads=1, environment={HOSTILE: HOSTILE}),
    )
    folder = put(tmp_path / "runs" / "one", one, log=json.dumps({"kind": "train", "step": 1, "epoch": 1, "loss": 1.0}))
    (folder / "predictions").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "predictions" / "<img src=x onerror=hacked=1>.png")
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "job.json").write_text(json.dumps({"name": HOSTILE}))
    (broken / "status.json").write_text(json.dumps({"state": "failed", "error": HOSTILE}))
    elements = Elements(page_of(tmp_path / "runs"))
    assert [tag for tag, _ in elements.tags].count("script") == 1
    assert all(str(a.get("src")).startswith("data:") for tag, a in elements.tags if tag == "img")
    assert not [name for _, a in elements.tags for name in a if name.startswith("on")]
    assert elements.text.count("{{ 7 * 7 }}") > 10
    assert "<script>hacked = 1</script>" in elements.text


def test_a_record_of_version_1_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes((Path(__file__).parent / "records" / "record_version_1.json").read_bytes())
    assert "knn" not in (text := Elements(page_of(tmp_path / "runs")).text)
    assert "linear/vit_micro_patch4_cifar10" in text


def test_what_cannot_be_read_is_said(runs: Path, cli: Callable[..., Any]) -> None:
    (runs / "torn").mkdir()
    (runs / "torn" / "record.json").write_text('{"schema_version": 1')
    (runs / "detection" / "predictions" / "2.png").write_bytes(b"no picture")
    out = runs.parent / "r.html"
    result = cli("report", "--runs", runs, "--out", out)
    assert result.code == 0
    assert result.out.splitlines()[-1] == str(out)
    text = " ".join(Elements(out.read_text()).text.split())
    assert "1 record that cannot be read" in text
    assert "pictures that cannot be read: 2" in text


@pytest.mark.parametrize(
    ("runs_dir", "out", "says"),
    [
        ("nowhere", "r.html", "nowhere: no such folder"),
        ("empty", "r.html", "no runs there"),
        ("runs", "r.pdf", "ends in .html"),
        ("runs", "nowhere/r.html", "no folder"),
    ],
)
def test_mistakes_are_named(
    runs: Path, tmp_path: Path, cli: Callable[..., Any], runs_dir: str, out: str, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    result = cli("report", "--runs", tmp_path / runs_dir, "--out", tmp_path / out)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert says in result.err


def titles(*records: Record) -> list[str]:
    return [c.title for c in caution.cautions(records, group_runs(records), [], 0)]


def test_cautions() -> None:
    plain = make()
    assert titles(plain) == ["One seed"]
    assert titles(plain, make(seed=1)) == []
    assert titles(plain, make(seed=1), make(protocol="linear")) == ["Missing seeds"]
    other_torch = replace(make(seed=1), software={"python": "3.11.7", "torch": "2.6.0"})
    assert titles(plain, other_torch) == ["Mixed versions"]
    gpu = replace(make(seed=1), device=record.Device(name="a GPU", count=1, type="cuda"))
    assert titles(plain, gpu) == ["Different devices"]
    assert titles(plain, replace(make(seed=1), recovered={"skipped_steps": 2})) == ["Resumed or recovered runs"]
    assert titles(plain, replace(make(seed=1), recovered={"skipped_steps": 0})) == []
    assert titles(plain, replace(make(seed=1), git=Git(commit="f" * 40, dirty=True))) == [
        "Several commits",
        "Changed source",
    ]
    chosen = Metrics(last={"top1": 60.0}, best={"top1": 61.0}, selection="best epoch", best_epoch=2.0)
    assert titles(plain, make(seed=1, metrics=chosen)) == ["Chosen models", "Best epoch against last"]
    assert titles(plain, make(seed=1, recipe_hash="b" * 64)) == ["Different runs of one name"]
    lost = {"files": {"found": 100, "used": 98, "left_out": {"unreadable": {"count": 2, "examples": ["a.jpg"]}}}}
    assert titles(plain, make(seed=1, data=replace(plain.data, account={"train": lost}))) == ["Data left out"]


def test_a_log_may_be_torn_repeated_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert curves.read_log(path) == curves.Log({}, {})
    resumed = log_lines(2.0, 1.5, 1.0) + log_lines(2.0, 1.25)
    path.write_text(resumed + '{"kind": "train", "step": 9, "ep\n[1]\n{"kind": "other", "step": 1}\n\x00')
    log = curves.read_log(path)
    assert log.train["loss"] == [(0.5, 2.0), (1.0, 1.25), (1.5, 1.0)]
    assert log.val["top1"] == [(1.0, 10.0), (2.0, 20.0)]
    path.write_text('{"kind": "train", "step": 1, "epoch": 1, "loss": NaN, "lr": true}\n')
    assert curves.read_log(path).train == {}
    far = [{"kind": "train", "step": k, "epoch": 1, "loss": loss} for k, loss in enumerate((1e308, -1e308, 1.0))]
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in far) + '{"kind": "train", "step": 1e999, "epoch": 1, "loss": 1}\n'
    )
    assert curves.read_log(path).train == {"loss": [(1.0, 1.0)]}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=900))
def test_thinning_keeps_the_mean_and_the_bound(values: list[float]) -> None:
    points = [(float(i), y) for i, y in enumerate(values)]
    thinned = curves.thin(points)
    assert len(thinned) <= curves.POINTS
    assert min(values) - 1e-3 <= min(y for _, y in thinned) <= max(y for _, y in thinned) <= max(values) + 1e-3
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_are_few_and_enclose(low: float, span: float) -> None:
    found = curves.ticks(low, low + span)
    assert 2 <= len(found) <= 8
    slack = 1e-6 * max(abs(low), span, 1)
    assert found[0] <= low + slack
    assert found[-1] >= low + span - slack


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=20))
def test_curves_stay_inside_their_frame(points: list[tuple[float, float]]) -> None:
    svg = curves.draw([curves.Line("a", 0, sorted(points))], x_label="epoch", y_label="loss", title='"<')
    assert 'aria-label="&quot;&lt;"' in svg
    places = re.findall(r'points="([^"]*)"', svg)
    for place in places[0].split() if places else []:
        x, y = map(float, place.split(","))
        assert 0 <= x <= 380
        assert 0 <= y <= 220


def test_pictures_are_shrunk_and_bounded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 2000, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "wide.png")
    picture = pictures.shrink("wide", tmp_path / "wide.png")
    assert (picture.width, picture.height) == (960, 192)
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))) as image:
        assert (image.format, image.size) == ("JPEG", (960, 192))
    album = pictures.Album(budget=len(picture.uri) + 1)
    assert len(album.take([("a", tmp_path / "wide.png")] * 5, most=4)) == 2  # the budget may be passed by one picture
    assert album.left_out == 3


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_link_out_of_a_run_is_named_and_not_followed(tmp_path: Path, whole_folder: bool) -> None:
    run, secrets = tmp_path / "run", tmp_path / "secrets"
    run.mkdir()
    secrets.mkdir()
    Image.new("RGB", (8, 8)).save(secrets / "0.png")
    if whole_folder:
        (run / "predictions").symlink_to(secrets)
    else:
        (run / "predictions").mkdir()
        (run / "predictions" / "0.png").symlink_to(secrets / "0.png")
    album = pictures.Album()
    assert pictures.of_run(run, "predictions", album) == []
    assert album.outside == ["run/predictions/0.png"]


def test_pictures_of_a_data_folder_that_a_record_names_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "data" / "val" / "a" / "secret.png"
    secret.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(secret)
    (tmp_path / "data" / "val.txt").write_text("val/a/secret.png 0\n")
    one = make()
    one.data.root = str(tmp_path / "data")
    put(tmp_path / "runs" / "one", one)
    read: list[str] = []
    sys.addaudithook(lambda event, told: read.append(str(told[0])) if event == "open" else None)
    write_report(tmp_path / "runs", tmp_path / "report.html")
    assert any("record.json" in path for path in read)
    assert [path for path in read if str(tmp_path / "data") in path] == []


def test_a_link_within_a_run_is_followed(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "kept.png")
    (tmp_path / "predictions" / "0.png").symlink_to(tmp_path / "kept.png")
    assert [name for name, _ in pictures.of_run(tmp_path, "predictions", pictures.Album())] == ["0"]


def test_a_pre_training_shows_what_it_drew_and_else_the_command_that_draws_it(tmp_path: Path) -> None:
    folder = put(tmp_path / "runs" / "pre", make("scratch", "pretrain"))
    assert "mae-bench reconstruct pre IMAGE..." in Elements(page_of(tmp_path / "runs")).text
    (folder / "predictions").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "predictions" / "reconstructions.png")
    elements = Elements(page_of(tmp_path / "runs"))
    assert "mae-bench reconstruct" not in elements.text
    assert [tag for tag, _ in elements.tags].count("img") == 1


def test_writing_a_report_does_not_wait_for_torch(runs: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from mae_bench.report import write_report; "
        f"write_report(Path({str(runs)!r}), Path({str(runs.parent / 'r.html')!r})); "
        "print([m for m in ('torch', 'timm', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture(scope="module")
def page() -> Iterator[browser.Page]:
    if browser.executable() is None:
        pytest.skip("no Chromium here (Debian's package is chromium)")
    with browser.chromium() as found:
        yield found


@pytest.mark.slow
def test_the_browser_tells_of_mistakes(page: browser.Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<!DOCTYPE html><img src='file:///nowhere.png'><script>nonsense()</script>")
    page.open(bad)
    assert page.requests == [bad.as_uri(), "file:///nowhere.png"]
    assert any("nonsense is not defined" in problem for problem in page.problems)
    page.problems.clear()


@pytest.mark.slow
def test_in_a_browser_it_is_whole_and_safe(page: browser.Page, runs: Path) -> None:
    put(runs / "hostile", make(HOSTILE, recipe_name=HOSTILE, name=HOSTILE))
    out = runs.parent / "report.html"
    write_report(runs, out)
    page.screen(1200, 900)
    page.open(out)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.requests == [out.as_uri()]
    assert page.problems == []
    assert page.evaluate("[...document.images].every((i) => i.complete || i.loading === 'lazy')")


@pytest.mark.slow
def test_a_table_is_sorted_from_the_keyboard(page: browser.Page, runs: Path) -> None:
    out = runs.parent / "report.html"
    write_report(runs, out)
    page.open(out)
    figures = "[...document.querySelectorAll('#costs td .ours')].map((cell) => cell.textContent)"
    assert page.evaluate(figures) == ["31.5", "68.0 ± 1.4", "58.0"]
    page.evaluate("document.querySelectorAll('#costs thead button')[0].focus()")
    page.press("Tab", 9)  # on to the heading "figure"
    assert page.evaluate("document.activeElement.textContent") == "figure"
    states = []
    for key, code, text in (("Enter", 13, "\r"), (" ", 32, " ")):
        page.press(key, code, text)
        heading = "document.querySelectorAll('#costs thead th')[1].getAttribute('aria-sort')"
        states.append((page.evaluate(heading), page.evaluate(figures)))
    assert states == [
        ("ascending", ["31.5", "58.0", "68.0 ± 1.4"]),
        ("descending", ["68.0 ± 1.4", "58.0", "31.5"]),
    ]
    assert page.problems == []


@pytest.mark.slow
def test_it_fits_a_phone_and_is_dark_where_that_is_preferred(page: browser.Page, runs: Path) -> None:
    out = runs.parent / "report.html"
    write_report(runs, out)
    brightness = []
    for dark in (False, True):
        page.screen(390, 844, dark=dark, phone=True)
        page.open(out)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # tables scroll, the page does not
        with Image.open(io.BytesIO(page.screenshot())) as image:
            brightness.append(float(np.asarray(image.convert("L")).mean()))
    assert brightness[0] > 200
    assert brightness[1] < 60
