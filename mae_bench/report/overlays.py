"""Training curves: all starts and seeds of a protocol over one another, on one scale. `curves` reads and draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mae_bench.records.groups import LOSS, RunGroup
from mae_bench.report import curves
from mae_bench.tables.own import start_of


@dataclass(frozen=True)
class Overlay:
    """Drawings of one protocol on one data set; `series`: what is drawn and its colour."""

    title: str
    drawings: tuple[str, ...]
    series: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Logged:
    """A run's log under the name that its curve has."""

    label: str
    series: int
    log: curves.Log


def overlays(cells: Mapping[str, RunGroup], colours: Mapping[str, int]) -> list[Overlay]:
    """Protocols in the order of the cells; those without a log are left out.

    Args:
        colours: of starts, as the page's bars have them, in whose order curves are named.
    """
    order = {start: number for number, start in enumerate(colours)}
    groups: dict[tuple[str, str, str], list[RunGroup]] = defaultdict(list)
    for cell in cells.values():
        first = cell.records[0]
        groups[first.protocol, first.data.name, cell.primary].append(cell)
    several = {protocol for protocol, *_ in groups if sum(key[0] == protocol for key in groups) > 1}
    found = []
    for (protocol, data, primary), members in groups.items():
        title = f"{protocol}, {data}" if protocol in several else protocol
        members.sort(key=lambda cell: order.get(start_of(cell.records[0]), len(order)))
        overlay = _overlay(title, primary, members, colours)
        if overlay.drawings:
            found.append(overlay)
    return found


def _overlay(title: str, primary: str, cells: Sequence[RunGroup], colours: Mapping[str, int]) -> Overlay:
    names = _names(cells)
    series = [colours.get(name, number % 7) for number, name in enumerate(names)]
    runs = [
        Logged(
            f"{names[number]}, seed {record.seed}", series[number], curves.read_log(record.path.parent / "log.jsonl")
        )
        for number, cell in enumerate(cells)
        for record in cell.records
        if record.path is not None
    ]
    metric = [curves.Line(run.label, run.series, run.log.val.get(primary, [])) for run in runs]
    loss = [curves.Line(f"training, {run.label}", run.series, run.log.train.get("loss", [])) for run in runs]
    held_out = [
        curves.Line(f"validation, {run.label}", run.series, run.log.val.get("loss", []), dashed=True) for run in runs
    ]
    drawings = (
        curves.draw(metric, x_label="epoch", y_label=primary, title=f"{primary} of {title}")
        if primary != LOSS and any(len(line.points) > 1 for line in metric)
        else "",
        curves.draw([*loss, *held_out], x_label="epoch", y_label=f"loss{_key(held_out)}", title=f"loss of {title}")
        if any(len(line.points) > 1 for line in (*loss, *held_out))
        else "",
    )
    return Overlay(title, tuple(drawing for drawing in drawings if drawing), tuple(zip(names, series, strict=True)))


def _names(cells: Sequence[RunGroup]) -> list[str]:
    """What tells cells of a protocol apart: the start, and the recipe and encoder where several share it."""
    starts = [start_of(cell.records[0]) for cell in cells]
    if len(set(starts)) == len(starts):
        return starts
    return [cell.name.partition("/")[2] or cell.name for cell in cells]


def _key(validation: Sequence[curves.Line]) -> str:
    """How validation looks: one evaluation is a ring, several are a dashed line."""
    most = max((len(line.points) for line in validation), default=0)
    return "" if not most else " (ring: validation)" if most == 1 else " (dashed: validation)"
