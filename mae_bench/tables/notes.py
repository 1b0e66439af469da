"""What must be said below a table, in plain words. `mae_bench.tables.build` decides which notes apply."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mae_bench.record import Record
from mae_bench.tables.definitions import DataSet
from mae_bench.tables.model import Measured


def own_setting(paper: DataSet, heading: str, records: Sequence[Record]) -> str:
    """Why a column holds figures of ours alone, and what its data are."""
    data = records[0].data
    seeds = ", ".join(str(seed) for seed in sorted({record.seed for record in records}))
    text = (
        f"{heading}: ours only, no published figure to compare with; {data.train_count:,} training and"
        f" {data.val_count:,} {data.split} images, {data.classes} classes,"
        f" {records[0].img_size} px, seeds {seeds}"
    )
    if data.name == "embedded":
        text += f"; a composite (handwritten digits on photographs), its figures say nothing about {paper.title}"
    elif data.name == paper.name and data.val_count < paper.val_count:
        text += f"; a part of {paper.title}, which has {paper.train_count:,} and {paper.val_count:,}"
    return text


def own_default(heading: str, ours: Mapping[str, Any], paper: Mapping[str, Any], images: Sequence[int]) -> str:
    """In what an ablation's own default differs from the paper's, and on how many images it was pre-trained."""
    differing = [f"{key} {_text(ours[key])} ({_text(v)})" for key, v in paper.items() if key in ours and ours[key] != v]
    on = f" on {', '.join(f'{n:,}' for n in images)} images" if images else ""
    same = "the paper's settings"
    return f"{heading}: pre-trained{on}; default, the paper's in brackets: {', '.join(differing) or same}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def selection(records: Sequence[Record]) -> str:
    """Which epoch the figures are of."""
    text = "ours: metrics after the last epoch; over several seeds mean ± sample standard deviation (n runs)"
    gains = [
        best - last
        for record in records
        if record.metrics.best is not None
        and (best := record.metrics.best.get(record.primary_metric)) is not None
        and (last := record.metrics.last.get(record.primary_metric)) is not None
    ]
    if gains and max(gains) >= 0.05:
        text += f"; the best epoch on the validation set is up to {max(gains):.1f} higher (the records hold both)"
    return text


def recipes(records: Iterable[Record]) -> str:
    """Which recipes the figures come from."""
    used = sorted({(record.recipe_name, record.recipe_hash[:8]) for record in records})
    return "our recipes: " + ", ".join(f"{name} ({digest})" for name, digest in used)


def variants(method: str, heading: str, groups: Sequence[Sequence[Record]]) -> str:
    """What tells the rows "MAE", "MAE #2" apart: runs that differ in more than the seed are not averaged."""
    texts = []
    for index, group in enumerate(groups, start=1):
        first = group[0]
        parts = [f"recipe {first.recipe_name} ({first.recipe_hash[:8]})"]
        if first.init.sha256:
            parts.append(f"checkpoint {first.init.sha256[:8]}")
        parts.append(f"data {first.data.fingerprint[:8]}")
        texts.append(f"{method}{f' #{index}' if index > 1 else ''} is {', '.join(parts)}")
    return f"{heading}: {'; '.join(texts)}"


def no_help(heading: str, ours: Sequence[tuple[str, Measured | None]]) -> Iterable[str]:
    """Says so where a pre-trained encoder does no better than one trained from scratch."""
    figures = {method: measured.mean for method, measured in ours if measured is not None}
    scratch = figures.pop("scratch", None)
    if scratch is None:
        return
    for method, mean in figures.items():
        if method.startswith("scratch #"):
            continue
        if math.isnan(mean) or math.isnan(scratch):
            yield f"{heading}: {method} cannot be compared with scratch, a figure is not a number"
        elif mean <= scratch:
            yield f"{heading}: pre-training does not help, {method} {mean:.1f} against scratch {scratch:.1f}"


def unfinished(records: Sequence[Record]) -> str:
    """Runs that fill no cell."""
    counts = Counter(record.status for record in records)
    which = ", ".join(sorted(record.name for record in records))
    return f"left out: {', '.join(f'{n} {status}' for status, n in sorted(counts.items()))} ({which})"
