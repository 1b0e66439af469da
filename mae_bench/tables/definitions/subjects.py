"""What a record is about, where a table asks: its data set, its share of labels, how many blocks it tuned."""

from __future__ import annotations

from typing import Any

from backbones.errors import UserError
from backbones.vit.arch import parse_arch
from mae_bench.records.record import Record
from mae_bench.tables.definitions.ablations import TARGET_KEYS
from mae_bench.tables.definitions.data_sets import IMAGENET, bare


def recipe_key(record: Record, key: str) -> Any:
    """A key of the record's recipe, such as ``head.tune_blocks``; None where it is not set."""
    value: Any = record.recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def label_share(record: Record) -> float | None:
    """The share of the training set's labels that was used: 0.01, 0.1, 1; None for a list of labels of unknown share."""
    if recipe_key(record, "data.label_list") is None:
        return float(recipe_key(record, "data.label_share") or 1)
    if bare(record.data.name) != IMAGENET.name:
        return None
    return round(record.data.train_count / IMAGENET.train_count, 3)


def told_share(record: Record) -> float | None:
    """`label_share`, but None where ``data.limit_train`` cut the labels short: theirs is no share of the data set's."""
    cut = recipe_key(record, "data.limit_train") == record.data.train_count
    return None if cut else label_share(record)


def test_set(record: Record) -> str | None:
    """Which of the test sets of robustness, as its recipe calls it."""
    kind = recipe_key(record, "test_set")
    return None if kind is None else str(kind)


def all_labels(record: Record) -> str | None:
    """The one subject of a table of runs with all labels."""
    return "" if label_share(record) == 1 else None


def tuned_blocks(record: Record) -> float | None:
    """How many of the last blocks were trained; half a block is an MLP. A linear probe trained none, fine-tuning all."""
    if label_share(record) != 1:
        return None
    if record.protocol == "linear":
        return 0.0
    tuned = recipe_key(record, "head.tune_blocks")
    if tuned is not None:
        return float(tuned)
    try:
        return float(parse_arch(record.arch)[1])
    except UserError:  # a name that is not ours: its depth is not known
        return None


# As the paper counts them (Table 12): with a head of 1000 classes.
_MILLIONS = {"vit_base_patch16": 86.0, "vit_large_patch16": 304.0, "vit_huge_patch14": 632.0}


def millions(record: Record) -> float | None:
    """Parameters of the encoder, in millions: the paper's own count for its models, else without head or positions."""
    if record.arch in _MILLIONS:
        return _MILLIONS[record.arch]
    try:
        width, depth, _, patch = parse_arch(record.arch)
    except UserError:  # a name that is not ours: its size is not known
        return None
    block = 12 * width**2 + 13 * width  # attention 4 w², MLP 8 w², their biases 9 w, two norms 4 w
    return round((depth * block + (3 * patch**2 + 4) * width) / 1e6, 2)  # patches with bias, class token, last norm


def paper_recipe(record: Record) -> str:
    """The recipe of the paper's figure for a record's protocol, architecture and input size, where one ships."""
    size = f"_{record.img_size}" if record.img_size != 224 else ""
    return f"{record.protocol}/{record.arch}_{IMAGENET.name}{size}"


def paper_detector(record: Record) -> str | None:
    """The recipe of Table 4's figure for a record's method; a method without one of its own has the one of all others."""
    if record.protocol != "detection_fpn" or not record.data.train_count:
        return None
    own = {"mocov3": "_moco_v3", "scratch": "_scratch"}
    return f"detection_fpn/{record.arch}_coco{own.get(bare(record.init.method), '')}"


_TARGETS = {"pixels": "pixel (w/o norm)", "pixels_norm": "pixel (w/ norm)", "tokens": "dVAE token"}


def pretraining_target(record: Record) -> str | None:
    """What its pre-training reconstructed, as Table 7 calls it; None where that is unknown or not all that it changed."""
    said = record.init.pretraining
    if said is None or set(said["changed"]) - set(TARGET_KEYS):
        return None
    return _TARGETS.get(said["settings"].get("mae.target"))
