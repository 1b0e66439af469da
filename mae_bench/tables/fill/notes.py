"""What must be said below a table, in plain words. `mae_bench.tables.fill.methods` decides which notes apply."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backbones.encoders.preprocessing import ARCHITECTURE, ASSUMED
from mae_bench.recipes import originals
from mae_bench.records.groups import declared, gain
from mae_bench.records.record import Data, Record
from mae_bench.tables.definitions.data_sets import DataSet
from mae_bench.tables.definitions.subjects import recipe_key
from mae_bench.tables.table import TOLERANCE_STDS, Measured
from tasks.datasets.account import share_left_out
from tasks.spec import Metric, in_decimals

_MUCH_LEFT_OUT = 0.01
_SEEDS = "over several seeds mean ± sample standard deviation (n runs)"
LAST_EPOCH = f"ours: metrics after the last epoch; {_SEEDS}"


def own_setting(paper: DataSet, heading: str, records: Sequence[Record]) -> str:
    """Why a column holds figures of ours alone, and what its data are."""
    sets = {(r.data.name, r.data.train_count, r.data.val_count): r.data for r in records}
    named = len({name for name, *_ in sets}) > 1
    counts = [f"{data.name}: {_counts(data)}" if named else _counts(data) for _, data in sorted(sets.items())]
    seeds = sorted({record.seed for record in records})
    said = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    text = (
        f"{heading}: ours only, no published figure to compare with; {'; '.join(counts)},"
        f" {records[0].img_size} px, {said}"
    )
    if any(data.name == "embedded" for data in sets.values()):
        text += f"; a composite (handwritten digits on photographs), its figures say nothing about {paper.title}"
    elif any(data.name == paper.name and data.val_count < paper.val_count for data in sets.values()):
        text += f"; a part of {paper.title}, which has {paper.train_count:,} and {paper.val_count:,}"
    return text


def _counts(data: Data) -> str:
    training = f"{data.train_count:,} training and " if data.train_count else ""
    return f"{training}{data.val_count:,} {data.split} images" + (f", {data.classes} classes" if data.classes else "")


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
    trained = any(recipe_key(record, "schedule.iterations") != 0 for record in records)
    text = LAST_EPOCH if trained else f"ours: models as they are, nothing is trained; {_SEEDS}"
    most: dict[Metric, float] = {}
    for record in records:
        metric = declared(record.task, record.primary_metric)
        most[metric] = max(most.get(metric, 0.0), gain(record))
    for metric, value in most.items():
        shown = in_decimals(value, metric.decimals)
        if float(shown):
            which = "lower" if metric.better == "lower" else "higher"
            text += f"; the best epoch on the validation set is up to {shown} {which} (the records hold both)"
    return text


def left_out(records: Iterable[Record]) -> Iterable[str]:
    """Data sets of which a reader left out more than 1 % of some kind of thing, by the records' accounts."""
    shares: dict[str, float] = {}
    for record in records:
        share = share_left_out(record.data.account)
        shares[record.data.name] = max(share, shares.get(record.data.name, 0.0))
    for name, share in sorted(shares.items()):
        if share > _MUCH_LEFT_OUT:
            yield f"{name}: up to {share:.1%} of its images or labels were left out (data.account in the records says why)"


def absent_classes(records: Iterable[Record]) -> Iterable[str]:
    """Data sets some of whose classes nothing is labelled with, by the records' accounts."""
    consequences = {
        "val": "no validation label (AP leaves them out, mIoU too unless they are predicted)",
        "train": "no training label",
    }
    found: dict[str, str] = {}
    for record in records:
        said = []
        for split, consequence in consequences.items():
            classes = record.data.account.get(split, {}).get("classes", {})
            if absent := classes.get("left_out", {}).get("absent"):
                said.append(f"{absent['count']} are in {consequence}")
        if said:
            found[record.data.name] = f"of {record.data.classes} classes {', '.join(said)}"
    yield from (f"{name}: {text}" for name, text in sorted(found.items()))


def precision(records: Iterable[Record]) -> Iterable[str]:
    """Which runs were computed otherwise than by the code that their recipes follow."""
    found = {record.protocol for record in records if originals.precision(record.task, record.precision)}
    if found:
        yield (
            f"ours in bf16, the originals in fp16 with a loss scaler: {', '.join(sorted(found))}; logits of evaluation and "
            "losses are fp32 (docs/recipes.md has what it changes)"
        )


def recipes(records: Iterable[Record]) -> str:
    """Which recipes the figures come from."""
    return f"our recipes: {_recipes(records)}"


def _recipes(records: Iterable[Record]) -> str:
    """``finetune/x (0123abcd), partial/x (4567abcd, 89abcdef)``: by name, with the hashes of those of one name."""
    digests: dict[str, list[str]] = {}
    for name, digest in sorted({(record.recipe_name, record.recipe_hash[:8]) for record in records}):
        digests.setdefault(name, []).append(digest)
    return ", ".join(f"{name} ({', '.join(hashes)})" for name, hashes in digests.items())


def variants(method: str, heading: str, groups: Sequence[Sequence[Record]]) -> str:
    """What tells the rows "MAE", "MAE #2" apart: runs that differ in more than the seed are not averaged."""
    texts = []
    for index, group in enumerate(groups, start=1):
        parts = [f"recipe {_recipes(group)}"]
        if group[0].init.sha256:
            parts.append(f"checkpoint {group[0].init.sha256[:8]}")
        parts.append(f"data {', '.join(dict.fromkeys(record.data.fingerprint[:8] for record in group))}")
        texts.append(f"{method}{f' #{index}' if index > 1 else ''} is {', '.join(parts)}")
    return f"{heading}: {'; '.join(texts)}"


def against_scratch(heading: str, ours: Sequence[tuple[str, Measured | None]], metric: Metric) -> Iterable[str]:
    """What may be said of pre-trained encoders beside training from scratch: no verdict without a spread on both sides."""
    figures = {method: measured for method, measured in ours if measured is not None}
    scratch = figures.pop("scratch", None)
    if scratch is None or not metric.better:
        return
    single = []
    for method, measured in figures.items():
        if method.startswith("scratch #"):
            continue
        if math.isnan(measured.mean) or math.isnan(scratch.mean):
            yield f"{heading}: {method} cannot be compared with scratch, a figure is not a number"
        elif measured.std is None or scratch.std is None:
            single.append(method)
        else:
            yield from _no_gain(heading, method, measured, scratch, metric)
    if single:
        yield (
            f"{heading}: {', '.join(single)} against scratch is of one seed, which tells nothing of whether pre-training "
            "helps: --seeds 0,1,2 gives a spread"
        )


def _no_gain(heading: str, method: str, measured: Measured, scratch: Measured, metric: Metric) -> Iterable[str]:
    """Says so where the gain over scratch is not more than two standard deviations of the difference of the means."""
    spread = math.sqrt(sum((each.std or 0.0) ** 2 / each.n for each in (measured, scratch)))
    gain = measured.mean - scratch.mean if metric.better == "higher" else scratch.mean - measured.mean
    if gain > TOLERANCE_STDS * spread:
        return
    both = " against ".join(
        f"{name} {in_decimals(each.mean, metric.decimals)}" for name, each in ((method, measured), ("scratch", scratch))
    )
    of = f"standard deviations of the difference of the means ({in_decimals(spread, metric.decimals)})"
    if gain < -TOLERANCE_STDS * spread:
        yield f"{heading}: pre-training does not help, {both}, more than {TOLERANCE_STDS} {of}"
    else:
        yield f"{heading}: no telling whether pre-training helps, {both}, within {TOLERANCE_STDS} {of}"


def assumed(records: Sequence[Record]) -> Iterable[str]:
    """Which encoders' architecture, and which mean and deviation, nothing told, so that those of a family were taken."""
    for fact, heading in ARCHITECTURE.items():
        by_default: dict[str, set[str]] = {}
        for record in records:
            if (where := record.init.sources.get(fact, "")).startswith(ASSUMED):
                by_default.setdefault(where, set()).add(record.init.method)
        for where, methods in sorted(by_default.items()):
            yield f"{heading} of {', '.join(sorted(methods))}: {where}"
    yield from _assumed_preprocessing(records)


def _assumed_preprocessing(records: Iterable[Record]) -> Iterable[str]:
    by_default: dict[str, list[str]] = {}
    for record in records:
        told = record.preprocessing
        where = told["source"].get("mean", "") if told else ""
        if record.init.checkpoint is not None and where.startswith(ASSUMED):
            by_default.setdefault(where, []).append(record.init.method)
    for where, methods in sorted(by_default.items()):
        yield f"mean and deviation of {', '.join(sorted(set(methods)))}: ImageNet's, {where}"


def unfinished(records: Sequence[Record]) -> str:
    """Runs that fill no cell."""
    counts = Counter(record.status for record in records)
    which = ", ".join(sorted(record.name for record in records))
    return f"left out: {', '.join(f'{n} {status}' for status, n in sorted(counts.items()))} ({which})"
