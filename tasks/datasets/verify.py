"""Whether a classification data set on disk is the published one, and its whole account: counts, labels, unreadable files.

No layouts (`tasks.datasets.layouts`) and no printing. What jsons of objects and folders of maps hold is looked at in
`tasks.detection.verify` and `tasks.segmentation.verify`, which report in the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from tasks.datasets.account import printable
from tasks.datasets.decoding import odd_images
from tasks.datasets.imagenet import class_subset, corruption_places, synsets
from tasks.datasets.layouts import Reader, open_reader
from tasks.datasets.layouts.folders import SYNSET, ImageNetFolderReader
from tasks.datasets.look import look, spread
from tasks.datasets.manifest import Manifest, check_alone, check_pair, copies
from tasks.datasets.options import LayoutOptions, layout_options
from tasks.datasets.roots import data_root
from tasks.recipe import Recipe

_ODD = 16  # images of each split that are looked at for what comes out otherwise than people see it
_NAMED = 5  # files or classes that a line of the report names


@dataclass(frozen=True)
class Published:
    """What a data set holds by its authors."""

    classes: int
    train: int | None = None
    val: int | None = None


# Sources: ImageNet: image-net.org/challenges/LSVRC/2012, arXiv 1409.0575 Table 2. iNaturalist: README.md of each year in
# visipedia/inat_comp; that of 2019 gives the sum 268,243, of which Kaggle's page of the competition has 265,213 for training.
# Places205: Zhou et al., NIPS 2014, Sec. 4 (validation: 100 a class). Places365: Zhou et al., TPAMI 2017, Sec. 3; the counts of
# TensorFlow Datasets' places365_small. ImageNet-A: arXiv 1907.07174. ImageNet-R: README.md of hendrycks/imagenet-r.
# ImageNet-Sketch: its README.md rounds to 50,000; alibaba/easyrobust counts 50,889 in the archive. ImageNet-V2: README.md of
# modestyachts/ImageNetV2. ImageNet-C: every validation image, 15 x 5 times: arXiv 1903.12261.
# ImageNet-1k's two counts, ImageNet-A's and ImageNet-C's are common knowledge: the papers were not at hand to look them up.
PUBLISHED = {
    "imagenet": Published(1000, 1_281_167, 50_000),
    "inat2017": Published(5089, 579_184, 95_986),
    "inat2018": Published(8142, 437_513, 24_426),
    "inat2019": Published(1010, 265_213, 3_030),
    "places205": Published(205, 2_448_873, 20_500),
    "places365": Published(365, 1_803_460, 36_500),
    "imagenet_a": Published(200, val=7_500),
    "imagenet_r": Published(200, val=30_000),
    "imagenet_sketch": Published(1000, val=50_889),
    "imagenet_v2": Published(1000, val=10_000),
    "imagenet_real": Published(1000, val=50_000),
    "imagenet_c": Published(1000, val=50_000),
}


@dataclass
class SplitReport:
    """What was found of one split (of ImageNet-C: of one corruption at one severity)."""

    split: str
    images: int = 0
    published_images: int | None = None
    classes: int = 0  # with at least one image
    published_classes: int | None = None
    labels: list[int] = field(default_factory=lambda: [0, 0])  # least and greatest
    balance: list[int] = field(default_factory=lambda: [0, 0])  # images of the smallest and of the largest class
    sizes: str = ""  # pixels of the smallest and the largest image that was looked at
    decoded: int = 0  # images that were looked at
    account: dict[str, Any] = field(default_factory=dict)  # `Account.to_json`
    books: list[str] = field(default_factory=list)  # the same, as lines
    unit: str = "images"  # what `balance` counts
    unreadable: list[str] = field(default_factory=list)  # paths
    notes: list[str] = field(default_factory=list)  # what is no problem, but to be known
    problems: list[str] = field(default_factory=list)  # a line each

    def problem(self, what: str, names: Sequence[object] = ()) -> None:
        shown = ", ".join(str(name) for name in names[:_NAMED])
        more = f", … ({len(names)} such)" if len(names) > _NAMED else ""
        self.problems.append(printable(f"{what}: {shown}{more}" if names else what))

    def count_against_published(self) -> None:
        """A problem where `images` is another number than `published_images`."""
        if self.published_images is not None and self.images != self.published_images:
            difference = self.images - self.published_images
            self.problem(
                f"{self.images} images, {abs(difference)} {'more' if difference > 0 else 'fewer'} than published"
            )


@dataclass
class Report:
    """What was found of a data set."""

    name: str
    root: str
    full: bool
    splits: list[SplitReport]

    @property
    def problems(self) -> list[str]:
        """Every problem, with its split in front."""
        return [f"{split.split}: {problem}" for split in self.splits for problem in split.problems]


Advance = Callable[[int], None]


def verify_recipe(recipe: Recipe, root: str, **how: Any) -> Report:
    """`verify`, of the data set that a recipe of images with or without labels reads."""
    return verify(recipe.data.name, root, options=layout_options(recipe.data), **how)


def verify(
    name: str,
    root: str,
    *,
    full: bool = False,
    sample: int = 1000,
    options: LayoutOptions = LayoutOptions(),  # noqa: B008 (frozen)
    progress: Callable[[int], Advance] | None = None,
) -> Report:
    """Looks at every split of data set `name` under `root`.

    Args:
        options: what the layout does not say itself, as in ``data.options``.
        full: decode every image, instead of `sample` of each split, spread over it.
        progress: given how many images will be decoded, returns what is told how many are done.

    Raises:
        UserError: no such folder, or no layout that we know.
    """
    if sample < 0:
        raise UserError(f"--sample {sample}: give 0 or more")
    base = data_root(name, root)
    found = _corruptions(base) if name == "imagenet_c" else _splits(base, name, options)
    if not found:
        raise UserError(f"{root}: no train and no val split in any layout that we know: the README lists them")
    reports, rows = [], []
    for split, reader, problem in found:
        report = SplitReport(split)
        reports.append(report)
        if reader is None:
            report.problem(problem)
            continue
        _count(report, reader, name)
        rows.append((report, reader, spread(len(reader), None if full else sample // _parts(name))))
    advance = progress(sum(len(which) for *_, which in rows)) if progress else lambda _: None
    done = 0
    for report, reader, which in rows:
        seen = look(reader.encoded, which, partial(_add, advance, done))
        report.decoded, report.sizes = seen.images, seen.sizes()
        done += seen.images
        broken = dict.fromkeys(row for row, _ in seen.broken)
        for row in broken:
            reader.give_up("unreadable", reader.place(row))
        report.notes += _odd(report.split, reader, [row for row in which if row not in broken], options.white)
        if broken:
            report.problem("unreadable images", [reader.place(row) for row in broken])
        reader.account.check()
        report.account, report.books = reader.account.to_json(), reader.account.lines()
    _compare(rows)
    return Report(name, str(base), full, reports)


def _odd(split: str, reader: Reader, rows: Sequence[int], white: int) -> list[str]:
    """`odd_images` of some rows that can be read."""
    some = [rows[k] for k in spread(len(rows), _ODD)]
    return odd_images(split, [reader.place(row) for row in some], white, lambda k: reader.encoded(some[k]))


def _add(advance: Advance, before: int, done: int) -> None:
    advance(before + done)


def _compare(rows: Sequence[tuple[SplitReport, Reader, Sequence[int]]]) -> None:
    """What the samples of each split tell, and those of two of each other."""
    manifests = []
    for report, reader, _ in rows:
        if not len(reader) or isinstance(reader, ImageNetFolderReader):
            continue  # test sets of a part of ImageNet's classes may be of one class, as each severity of a corruption
        manifests.append((report, _manifest(reader)))
        try:
            report.notes += check_alone(manifests[-1][1])
        except UserError as e:
            report.problem(str(e))
    if len(manifests) == 2 and len(rows) == 2:
        (_, train), (report, val) = manifests
        try:
            report.notes += check_pair(train, val) + copies(train, val)
        except UserError as e:
            report.problem(str(e))


def _manifest(reader: Reader) -> Manifest:
    counts = np.bincount(reader.labels, minlength=len(reader.class_names))
    return Manifest(
        str(reader.root),
        reader.class_names,
        counts,
        reader.places(),
        reader.name,
        reader.encoded,
        reader.sizes(),
        reader.labels,
    )


def _parts(name: str) -> int:
    return 75 if name == "imagenet_c" else 1


Found = tuple[str, Reader | None, str]  # split, its reader, or what is wrong with it


def _splits(base: Path, name: str, options: LayoutOptions) -> list[Found]:
    found: list[Found] = []
    for split in ("train", "val"):
        try:
            reader = open_reader(base, split, options)
        except UserError as e:
            found.append((split, None, str(e)))
            continue
        if reader is not None:
            found.append((split, reader, ""))
    published = PUBLISHED.get(name)
    if found and published and len(found) == 1:
        missing = "train" if found[0][0] == "val" else "val"
        if getattr(published, missing) is not None:
            found.append((missing, None, f"no {missing} split there"))
    return found


def _corruptions(base: Path) -> list[Found]:
    found: list[Found] = []
    for corruption, severity, folder in corruption_places(base):
        split = f"{corruption} {severity}"
        try:
            found.append(
                (split, ImageNetFolderReader(folder), "") if folder.is_dir() else (split, None, f"{folder} is missing")
            )
        except UserError as e:
            found.append((split, None, str(e)))
    return found if any(reader for _, reader, _ in found) else []


def _count(report: SplitReport, reader: Reader, name: str) -> None:
    """Images, labels and classes against the published ones."""
    present = sorted(set(reader.labels.tolist()))
    report.images, report.classes, report.labels = len(reader), len(present), [*present[:1], *present[-1:]]
    report.notes += reader.notes
    counts = np.bincount(reader.labels)[present]
    report.balance = [int(counts.min(initial=len(reader))), int(counts.max(initial=0))]
    for doubt in reader.account.doubts():
        report.problem(doubt)
    published = PUBLISHED.get(name)
    if published:
        report.published_classes = published.classes
        report.published_images = published.train if report.split == "train" else published.val
        report.count_against_published()
    for what, names in _wrong_classes(reader, present, name):
        if names:
            report.problem(what, names)
    if published and _expected_synsets(reader, name) is None and len(reader.class_names) != published.classes:
        report.problem(f"{len(reader.class_names)} classes, {published.classes} are published")


def _wrong_classes(reader: Reader, present: list[int], name: str) -> Iterator[tuple[str, list[str]]]:
    """(what is wrong, names of classes)."""
    names = [reader.class_names[i] for i in present]
    expected = _expected_synsets(reader, name)
    if expected is not None:
        yield "classes that are absent", sorted(expected - set(names))
        yield "classes that are not this data set's", sorted(set(names) - expected)
        empty = [] if isinstance(reader, ImageNetFolderReader) else sorted(set(reader.empty_classes()) - expected)
        yield "classes without images", empty
        return
    yield "classes without images", reader.empty_classes()


def _expected_synsets(reader: Reader, name: str) -> set[str] | None:
    """The classes that ought to be there, where they go by synset."""
    if not name.startswith("imagenet") or not any(SYNSET.fullmatch(known) for known in reader.class_names):
        return None
    whole = synsets()
    return {whole[i] for i in class_subset(name)} if name in ("imagenet_a", "imagenet_r") else set(whole)
