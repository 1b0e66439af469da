"""The classes of a segmentation data set: their names in order of label, from the folder's own list before the recipe's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError
from tasks.datasets.manifest import alike
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.folders import IGNORE
from tasks.segmentation.mm import ADE20KDataset

ADE_CLASSES: tuple[str, ...] = tuple(ADE20KDataset.METAINFO["classes"])
CLASS_LIST = "classes.txt"

_NUMBERED = re.compile(r"(\d+)(?:\s*[:,;.)\t-]\s*|\s+)(\S.*)")  # "0 background", "1: car", "2,road"


def class_names(root: Path, data_name: str, config: SegmentationConfig) -> tuple[list[str], list[str]]:
    """Names of the classes in order of label, and notes: those of the folder's ``classes.txt``, else the recipe's
    ``class_names``, else ADE20K's for the data set ade20k, else "0", "1", … where ``num_classes`` says how many.

    Raises:
        UserError: no names and no number, a number that the folder's list contradicts, or fewer than two classes.
    """
    told, count, notes = config.class_names, config.num_classes, []
    names = _read_class_list(root / CLASS_LIST, config.reduce_zero_label)
    if names is not None:
        if told and list(told) != names:
            notes.append(f"the {len(names)} classes are those of {CLASS_LIST}, not the recipe's {len(told)}")
    elif told:
        names = _checked(list(told), "segmentation.class_names")
    elif data_name == "ade20k":
        names = list(ADE_CLASSES)
    if count is None and names is None:
        raise UserError(f"{root}: no {CLASS_LIST} and no --set segmentation.num_classes=…: give one of them")
    if count is not None and not 1 <= count <= IGNORE:
        raise UserError(f"segmentation.num_classes must lie in 1..{IGNORE}, not {count}")
    if names is None or (count is not None and count != len(names)):
        if names is not None:
            notes.append(
                f"segmentation.num_classes={count} against {len(names)} names: classes are called by their numbers"
            )
        names = [str(i) for i in range(count or 0)]
    notes += alike(CLASS_LIST, names)
    if len(names) < 2:
        raise UserError(
            f"{root}: one class, {names[0]!r}: nothing can be told from it; list the background as the first class in "
            f"{CLASS_LIST}, 0 in the maps, and --set segmentation.reduce_zero_label=false"
        )
    return names, notes


def _read_class_list(path: Path, reduce_zero_label: bool) -> list[str] | None:
    """A name a line, with or without its label in front; or a tab-separated table as ADE20K's objectInfo150.txt: headed
    ``Idx``, the name last.
    """
    if not path.is_file():
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: the list of classes is not UTF-8 ({e.reason}): save it as such") from e
    if lines and lines[0].startswith("Idx"):
        lines = ["\t".join(line.split("\t")[:: max(1, line.count("\t"))]) for line in lines[1:]]
    if not lines:
        raise UserError(f"{path}: the list of classes is empty")
    return _checked(_without_labels(lines, path, reduce_zero_label), str(path))


def _without_labels(lines: list[str], path: Path, reduce_zero_label: bool) -> list[str]:
    """The names alone where every line begins with its label; labels that the recipe would read otherwise are refused."""
    parts = [_NUMBERED.fullmatch(line) for line in lines]
    matched = [part for part in parts if part]
    if len(matched) < len(parts) or int(matched[0][1]) not in (0, 1):
        return lines
    if int(matched[-1][1]) == IGNORE:  # "255 unlabelled"
        matched.pop()
    labels, first = [int(part[1]) for part in matched], int(reduce_zero_label)
    if labels[0] != first:
        other = str(not reduce_zero_label).lower()
        raise UserError(
            f"{path} begins with label {labels[0]}, but segmentation.reduce_zero_label={str(reduce_zero_label).lower()} makes "
            f"{first} the first class's: --set segmentation.reduce_zero_label={other}, or mend the list"
        )
    if labels != list(range(first, first + len(labels))):
        raise UserError(f"{path}: labels {labels} skip or are out of order: list every label from {first} on, in order")
    return [part[2] for part in matched]


def _checked(names: Sequence[str], where: str) -> list[str]:
    if len(names) > IGNORE:
        raise UserError(f"{where} names {len(names)} classes: at most {IGNORE} are possible: {IGNORE} means unlabelled")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where} names {twice[0]!r} twice: every class needs a name of its own")
    return list(names)
