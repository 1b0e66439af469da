"""A segmentation data set whole, for `mae-bench data verify`: books of both folders, labels, images and maps."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from tasks.datasets.decoding import odd_images
from tasks.datasets.look import spread
from tasks.datasets.manifest import copies
from tasks.datasets.roots import data_root
from tasks.datasets.verify import Advance, Published, Report, SplitReport
from tasks.segmentation.checks import Labels, Used, check_labels, check_overlap, count_classes, manifest
from tasks.segmentation.classes import class_names
from tasks.segmentation.config import SegmentationRecipe
from tasks.segmentation.folders import IGNORE, Pair, find_pairs, layout_root
from tasks.segmentation.reading import other_size, read_image, read_labels, to_classes, turned_images

_BLOCK = 256  # pairs handed to the threads at a time

# Source: Zhou et al., IJCV 2019 (arXiv 1608.05442): SceneParse150.
PUBLISHED = {"ade20k": Published(150, 20_210, 2_000)}


def verify(
    recipe: SegmentationRecipe,
    root: str,
    *,
    full: bool = False,
    sample: int = 1000,
    progress: Callable[[int], Advance] | None = None,
) -> Report:
    """Looks at both splits of the recipe's data set under `root`; see `tasks.datasets.verify.verify`.

    Raises:
        UserError: no such folder, no names of classes, or neither split in the recipe's folders.
    """
    config, name = recipe.segmentation, recipe.data.name
    base = layout_root(data_root(name, root), config)
    names, notes = class_names(base, name, config)
    reports, used = [SplitReport("train", unit="maps"), SplitReport("val", unit="maps")], []
    reports[0].notes += notes
    for report in reports:
        try:
            opened = _open(report, recipe, base, PUBLISHED.get(name))
        except UserError as e:
            report.problem(str(e))
            continue
        report.account, report.books = opened.account.to_json(), opened.account.lines()
        if opened.rows:
            used.append((report, opened))
    if not any(report.account for report in reports):
        raise UserError(reports[1].problems[0])
    chosen = [spread(len(each.rows), None if full else sample) for _, each in used]
    advance = progress(sum(map(len, chosen))) if progress else lambda _: None
    done = 0
    for (report, each), rows in zip(used, chosen, strict=True):
        labels = _look(report, [each.pairs[i] for i in rows], recipe, len(names), partial(_add, advance, done))
        done += len(rows)
        _say(report, each, labels, names, recipe)
    if len(used) == 2:
        train, val = (each for _, each in used)
        try:
            reports[1].notes += check_overlap(train, val, names, ())
            reports[1].notes += copies(manifest(train, names), manifest(val, names))
        except UserError as e:
            reports[1].problem(str(e))
    return Report(name, str(base), full, reports)


def _add(advance: Advance, before: int, done: int) -> None:
    advance(before + done)


def _open(report: SplitReport, recipe: SegmentationRecipe, base: Path, published: Published | None) -> Used:
    """The pairs of a split; what has no partner is a problem of the report."""
    config, trains = recipe.segmentation, report.split == "train"
    images, maps = (config.train_images, config.train_maps) if trains else (config.val_images, config.val_maps)
    found = find_pairs(base, images, maps, config, {"no_partner", "missing", "unknown_format"})
    for doubt in found.account.doubts():
        report.problem(doubt)
    report.images = len(found.pairs)
    if published:
        report.published_classes = published.classes
        report.published_images = published.train if trains else published.val
        report.count_against_published()
    return Used(report.split, found, range(len(found.pairs)))


Seen = tuple[tuple[int, int], np.ndarray, bool]  # width and height, (C,) whether each class is shown, whether 0 occurs


def _look(
    report: SplitReport, pairs: list[Pair], recipe: SegmentationRecipe, classes: int, advance: Callable[[int], None]
) -> Labels:
    """Reads images and maps and counts what they hold; what cannot be used is a problem of the report."""
    counts, zero = np.zeros(classes, np.int64), 0
    sizes: list[tuple[int, str]] = []
    problems = []
    look = partial(_see, reduce_zero_label=recipe.segmentation.reduce_zero_label, classes=classes)
    left = iter(pairs)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock alone
        while block := list(islice(left, _BLOCK)):
            for pair, seen in zip(block, pool.map(look, block), strict=True):
                report.decoded += 1
                if isinstance(seen, str):
                    report.unreadable.append(str(pair.image))
                    problems.append(seen)
                    continue
                size, shown, has_zero = seen
                sizes.append((size[0] * size[1], f"{size[0]}x{size[1]}"))
                counts += shown
                zero += has_zero
            advance(report.decoded)
    if problems:
        report.problem("pairs that cannot be used", problems)
    if sizes:
        low, high = min(sizes)[1], max(sizes)[1]
        report.sizes = f"{low} pixels" if low == high else f"{low} to {high} pixels"
    paths = [pair.image for pair in pairs[:_BLOCK]]
    report.notes += odd_images(report.split, paths, recipe.data.white_level) + turned_images(report.split, paths)
    return Labels(report.decoded, report.decoded == report.images, counts, zero)


def _see(pair: Pair, reduce_zero_label: bool, classes: int) -> Seen | str:
    try:
        height, width, _ = read_image(pair.image).shape
        values = read_labels(pair.map)
        if values.shape != (height, width):
            raise other_size(pair.map, values.shape, (height, width), pair.image)
        found = to_classes(pair.map, values, classes, reduce_zero_label)
    except UserError as e:
        return str(e)
    return (width, height), np.bincount(found.ravel(), minlength=IGNORE + 1)[:classes] > 0, bool((values == 0).any())


def _say(report: SplitReport, used: Used, labels: Labels, names: list[str], recipe: SegmentationRecipe) -> None:
    """What the labels come to, and the account."""
    reduced, prefix = recipe.segmentation.reduce_zero_label, f"{report.split}: "
    present = np.flatnonzero(labels.counts)
    report.classes = len(present)
    if len(present):
        report.labels = [int(present[0]) + reduced, int(present[-1]) + reduced]
        report.balance = [int(labels.counts[present].min()), int(labels.counts.max())]
    try:
        report.notes += [note.removeprefix(prefix) for note in check_labels({report.split: labels}, names, reduced)]
    except UserError as e:
        report.problem(str(e).removeprefix(prefix))
    count_classes(used.account, labels, names)
    for path in report.unreadable:
        used.account.give_up("images", "unreadable", Path(path).name)
        used.account.give_up("maps", "unreadable", f"the map of {Path(path).name}")
    used.account.check()
    report.account, report.books = used.account.to_json(), used.account.lines()
