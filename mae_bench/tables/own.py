"""The user's own results in one table: a row a task and metric, a column a start, the gain over scratch, the published figure.

The gain has a column of its own, or stands in brackets where several starts or seeds would make a terminal too narrow.

What `mae-bench run` prints at its end. The papers' tables, with every published row, are `mae-bench table`'s.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe, recipe_hash, short_name
from mae_bench.records.groups import once
from mae_bench.records.record import Record
from mae_bench.tables.definitions.data_sets import ALL, bare, is_whole
from mae_bench.tables.fill.counting import measured
from mae_bench.tables.formats import text_grid
from mae_bench.tables.table import Measured
from tasks import metric, spec
from tasks.spec import MISSING, Metric, in_decimals

SCRATCH = "scratch"
_WIDTH = 80  # characters of a terminal; starts that need more side by side become rows, where that is narrower
# How recipes cite a figure (`published.yaml`, cited_as) -> the metric.
_CITED = {"top-1": "top1", "box AP": "box_ap", "mask AP": "mask_ap", "mIoU": "mIoU", "mCE": "inc_mce"}


@dataclass(frozen=True)
class OwnFigures:
    """A metric of a recipe's runs: `figures` by start (None where it was not measured), scratch first."""

    task: str  # the protocol, with the recipe's own name where several recipes ran it
    metric: Metric
    figures: dict[str, Measured | None]
    published: float | None  # that the recipe reproduces

    @property
    def gains(self) -> dict[str, str]:
        """Start -> difference from scratch, with the deviation of the difference where both have a spread."""
        before, decimals = self.figures.get(SCRATCH), self.metric.decimals
        found = {}
        for start, ours in self.figures.items():
            if before and ours and start != SCRATCH:
                found[start] = in_decimals(ours.mean - before.mean, decimals, signed=True)
                if ours.std is not None and before.std is not None:
                    found[start] += f" ± {in_decimals(math.hypot(ours.std, before.std), decimals)}"
        return found


def own_figures(records: Iterable[Record], runs_dir: str | os.PathLike[str] | None = None) -> list[OwnFigures]:
    """What was measured, a line a recipe and metric; empty where no record has a metric.

    Runs that differ in the seed alone make one figure; several checkpoints of one method, or several settings of one
    recipe, are starts of their own.
    """
    done = [r for r in once(list(records)) if r.status == "done" and r.metrics.last]
    columns = _columns(done)
    starts = list(dict.fromkeys(columns[r.job_id] for r in done))
    starts.sort(key=lambda start: start != SCRATCH)
    found = []
    for recipe in dict.fromkeys(r.recipe_name for r in done):
        mine = [r for r in done if r.recipe_name == recipe]
        for key in _headlines(mine[0]):
            by_start = {s: measured([r for r in mine if columns[r.job_id] == s], key, runs_dir) for s in starts}
            known, published = metric(mine[0].task, key), _published(mine[0], key)
            found.append(OwnFigures(_name(mine[0], done), known, by_start, published))
    return found


def own_results(records: Iterable[Record], runs_dir: str | os.PathLike[str] | None = None) -> list[dict[str, str]]:
    """`own_figures` as rows of plain cells by heading, ``75.2 ± 0.4 (n=3)``; empty columns are left out."""
    found = own_figures(records, runs_dir)
    apart, within = (
        _filled([{"task": each.task, "metric": each.metric.key, **_cells(each, gains_apart=way)} for each in found])
        for way in (True, False)
    )
    starts = list(found[0].figures) if found else []
    layouts = [apart] if len(starts) < 3 else []
    layouts += [within, _by_start(within, starts)] if starts else []
    return next((rows for rows in layouts if _width(rows) <= _WIDTH), min(layouts, key=_width))


def _width(rows: Sequence[dict[str, str]]) -> int:
    headings = rows[0] if rows else {}
    return sum(2 + max(len(heading), *(len(row[heading]) for row in rows)) for heading in headings)


def _by_start(rows: Sequence[dict[str, str]], starts: Sequence[str]) -> list[dict[str, str]]:
    """A row a start, for the many of an ablation or a comparison of encoders."""
    headings = [f"{row['task']} {row['metric']}" for row in rows]
    cells = [{"start": s, **{h: row.get(s, MISSING) for h, row in zip(headings, rows, strict=True)}} for s in starts]
    return _filled(cells)


def _filled(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Without columns in which nothing stands."""
    filled = [
        h for h in dict.fromkeys(h for row in rows for h in row) if any(row.get(h, MISSING) != MISSING for row in rows)
    ]
    return [{heading: row.get(heading, MISSING) for heading in filled} for row in rows]


def _headlines(record: Record) -> list[str]:
    """The figures that stand for a run, as far as it has them."""
    try:
        known = spec(record.task).headlines
    except UserError:  # a task of a package that is not installed here
        known = ()
    return [key for key in known if key in record.metrics.last] or [record.primary_metric]


def start_of(record: Record) -> str:
    """What a run began from: method and variant."""
    return "-".join(filter(None, (record.init.method, record.variant)))


def _columns(records: Sequence[Record]) -> dict[str, str]:
    """Job id -> the start's name: method and variant, numbered where several checkpoints or settings share it."""
    kinds: dict[tuple[str, str], list[tuple[str, ...]]] = defaultdict(list)
    found = {}
    for record in records:
        label = start_of(record)
        kind = (record.init.sha256 or "", record.recipe_hash, record.data.fingerprint)
        same = kinds[record.recipe_name, label]
        if kind not in same:
            same.append(kind)
        number = same.index(kind)
        found[record.job_id] = f"{label} #{number + 1}" if number else label
    return found


def _name(record: Record, records: Sequence[Record]) -> str:
    """The protocol; with the recipe's own name where a protocol was run by several."""
    several = len({r.recipe_name for r in records if r.protocol == record.protocol}) > 1
    return f"{record.protocol}/{short_name(record.recipe_name)}" if several else record.protocol


def _cells(row: OwnFigures, *, gains_apart: bool) -> dict[str, str]:
    decimals, gains = row.metric.decimals, row.gains
    cells = {start: text_grid.measured(ours, decimals) for start, ours in row.figures.items()}
    if gains_apart:
        cells |= {f"{start} - {SCRATCH}": gain for start, gain in gains.items()}
    else:  # without its deviation: both spreads stand in the row
        cells |= {start: f"{cells[start]} ({gain.partition(' ')[0]})" for start, gain in gains.items()}
    if row.published is not None:
        cells["published"] = in_decimals(row.published, decimals)
        for start, ours in row.figures.items():
            if ours and start != SCRATCH:
                cells[f"{start} - published"] = in_decimals(ours.mean - row.published, decimals, signed=True)
    return cells


def _published(record: Record, key: str) -> float | None:
    """The figure that the recipe reproduces; None under overrides, another data set, or a part of it."""
    data = next((each for each in ALL if bare(each.name) == bare(record.data.name)), None)
    if data is None or not is_whole(data, record) or _shipped_hash(record.recipe_name) != record.recipe_hash:
        return None
    cited = re.findall(rf"({'|'.join(_CITED)}) (\d+(?:\.\d+)?)", str(record.recipe.get("published", "")))
    return next((float(figure) for words, figure in cited if _CITED[words] == key), None)


@lru_cache(maxsize=256)
def _shipped_hash(recipe_name: str) -> str | None:
    try:
        return recipe_hash(load_recipe(recipe_name))
    except UserError:
        return None
