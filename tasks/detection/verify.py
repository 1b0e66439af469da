"""A COCO or LVIS data set whole, for `mae-bench data verify`: books, objects, classes and images of both splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from tasks.datasets.decoding import odd_images
from tasks.datasets.look import spread
from tasks.datasets.manifest import check_pair, copies, twice
from tasks.datasets.roots import data_root
from tasks.datasets.verify import Advance, Published, Report, SplitReport
from tasks.detection.checks import Used, class_counts, class_notes, has_objects, open_books
from tasks.detection.config import DetectionRecipe
from tasks.detection.data import CocoSplit, Record, read_pixels, read_split, require_masks, turned_images
from tasks.detection.layout import find_json
from tasks.detection.lvis import check_lvis, is_lvis

_BLOCK = 512  # images handed to the threads at a time

# Sources: COCO 2017: cocodataset.org. LVIS v1: lvisdataset.org/dataset, 100,170 and 19,809 images, 1,203 classes.
PUBLISHED = {"coco": Published(80, 118_287, 5_000), "lvis": Published(1203, 100_170, 19_809)}


def verify(
    recipe: DetectionRecipe,
    root: str,
    *,
    full: bool = False,
    sample: int = 1000,
    progress: Callable[[int], Advance] | None = None,
) -> Report:
    """Looks at both splits of the recipe's data set under `root`; see `tasks.datasets.verify.verify`.

    Raises:
        UserError: no such folder, or no json in any layout that we know.
    """
    name, base = recipe.data.name, data_root(recipe.data.name, root)
    used = []
    reports = [SplitReport(split, unit="objects") for split in ("train", "val")]
    for report in reports:
        split = _open(report, recipe, base)
        if split is not None:
            used.append((report, _count(report, split, PUBLISHED.get(name))))
    if not any(find_json(base, report.split, recipe.data.options) for report in reports):
        raise UserError(f"{root}: no json for train or val in any layout that we know (docs/detection.md lists them)")
    chosen = [spread(len(each.records), None if full else sample) for _, each in used]
    advance = progress(sum(map(len, chosen))) if progress else lambda _: None
    done = 0
    for (report, each), rows in zip(used, chosen, strict=True):
        done = _decode(report, [each.records[i] for i in rows], recipe.data.white_level, advance, done)
        for path in report.unreadable:
            each.account.give_up("images", "unreadable", Path(path).name)
        each.account.check()
        report.account, report.books = each.account.to_json(), each.account.lines()
    if len(used) == 2:
        _compare(reports[1], *(each for _, each in used))
    return Report(name, str(base), full, reports)


def _open(report: SplitReport, recipe: DetectionRecipe, base: Path) -> CocoSplit | None:
    """The split with its broken objects left out and counted; what keeps it from being read is a problem of the report."""
    try:
        split = read_split(
            base, report.split, recipe.data.options, with_masks=recipe.detection.with_masks, skip_broken=True
        )
    except UserError as e:
        report.problem(str(e))
        return None
    report.notes += split.notes
    checks = [require_masks] * recipe.detection.with_masks + [check_lvis] * is_lvis(split)
    for check in checks:
        try:
            check(split)
        except UserError as e:
            report.problem(str(e))
    if recipe.protocol == "lvis" and not is_lvis(split):
        report.problem(f"{split.json}: its images have no neg_category_ids, which LVIS's AP needs")
    return split


def _count(report: SplitReport, split: CocoSplit, published: Published | None) -> Used:
    trains = report.split == "train"
    account = open_books(split, trains=trains)
    records = [record for record in split.records if has_objects(record)] if trains else split.records
    counts = class_counts(split, split.records)
    present = np.flatnonzero(counts)
    report.images, report.classes = len(split.records), len(present)
    if len(present):
        report.labels = [split.category_ids[present[0]], split.category_ids[present[-1]]]
        report.balance = [int(counts[present].min()), int(counts.max())]
    areas = sorted((r["width"] * r["height"], f"{r['width']}x{r['height']}") for r in split.records)
    low, high = areas[0][1], areas[-1][1]
    report.sizes = f"{low} pixels" if low == high else f"{low} to {high} pixels"
    for doubt in account.doubts():
        report.problem(doubt)
    if not counts.any() or not records:
        report.problem("no object counts (all are crowds, or cannot be used)")
    if published:
        report.published_classes = published.classes
        report.published_images = published.train if trains else published.val
        report.count_against_published()
        if len(counts) != published.classes:
            report.problem(f"{len(counts)} classes are declared, {published.classes} are published")
    return Used(report.split, split, records, account)


def _decode(report: SplitReport, records: Sequence[Record], white: int, advance: Advance, done: int) -> int:
    """Decodes images and holds their sizes against the json; returns how many are done."""
    left, problems = iter(records), []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock alone
        while block := list(islice(left, _BLOCK)):
            for record, problem in zip(block, pool.map(_problem, block), strict=True):
                if problem:
                    report.unreadable.append(record["file_name"])
                    problems.append(problem)
            done += len(block)
            advance(done)
    if problems:
        report.problem("images that cannot be used", problems)
    report.decoded = len(records)
    some = records[:_BLOCK]
    report.notes += odd_images(report.split, [record["file_name"] for record in some], white)
    report.notes += turned_images(report.split, some)
    return done


def _problem(record: Record) -> str:
    try:
        read_pixels(record)
    except UserError as e:
        return str(e)
    return ""


def _compare(report: SplitReport, train: Used, val: Used) -> None:
    ours, theirs = (dict(zip(u.split.category_ids, u.split.classes, strict=True)) for u in (train, val))
    if ours != theirs:
        report.problem("its categories are not those of training: ids and names must be the same")
        return
    trained, judged = train.manifest, val.manifest
    try:
        report.notes += (
            twice(trained)
            + twice(judged)
            + check_pair(trained, judged)
            + copies(trained, judged)
            + class_notes(train, val)
        )
    except UserError as e:
        report.problem(str(e))
