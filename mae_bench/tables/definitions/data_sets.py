"""The data sets of the paper's tables, counted in images."""

from __future__ import annotations

from dataclasses import dataclass

from mae_bench.records.record import Record


@dataclass(frozen=True)
class DataSet:
    """The paper's data set, counted in images. Runs on another, or on a part of it, get their own columns."""

    name: str  # as in `Record.data.name`
    title: str
    train_count: int  # 0: evaluated on only
    val_count: int


IMAGENET = DataSet("imagenet", "ImageNet-1K", train_count=1_281_167, val_count=50_000)
COCO = DataSet("coco", "COCO 2017", train_count=118_287, val_count=5_000)
LVIS = DataSet("lvis", "LVIS v1", train_count=100_170, val_count=19_809)
ADE20K = DataSet("ade20k", "ADE20K", train_count=20_210, val_count=2_000)
INAT2017 = DataSet("inat2017", "iNaturalist 2017", train_count=579_184, val_count=95_986)
INAT2018 = DataSet("inat2018", "iNaturalist 2018", train_count=437_513, val_count=24_426)
INAT2019 = DataSet("inat2019", "iNaturalist 2019", train_count=265_213, val_count=3_030)
PLACES205 = DataSet("places205", "Places205", train_count=2_448_873, val_count=20_500)
PLACES365 = DataSet("places365", "Places365", train_count=1_803_460, val_count=36_500)
TRANSFER = (INAT2017, INAT2018, INAT2019, PLACES205, PLACES365)

IMAGENET_C = DataSet(
    "imagenet_c", "ImageNet-C", 0, val_count=3_750_000
)  # 50,000 images x 15 corruptions x 5 severities
IMAGENET_A = DataSet("imagenet_a", "ImageNet-A", 0, val_count=7_500)
IMAGENET_R = DataSet("imagenet_r", "ImageNet-R", 0, val_count=30_000)
IMAGENET_SKETCH = DataSet("imagenet_sketch", "ImageNet-Sketch", 0, val_count=50_889)
IMAGENET_V2 = DataSet("imagenet_v2", "ImageNet-V2", 0, val_count=10_000)
IMAGENET_REAL = DataSet("imagenet_real", "ImageNet with ReaL labels", 0, val_count=50_000)
ROBUSTNESS = (IMAGENET_A, IMAGENET_R, IMAGENET_SKETCH, IMAGENET_V2, IMAGENET_REAL, IMAGENET_C)
ALL = (IMAGENET, COCO, LVIS, ADE20K, *TRANSFER, *ROBUSTNESS)


# Readers of COCO leave out images without annotations: 1 % fewer is still the whole data set.
_WHOLE = 0.98


def is_whole(data: DataSet, record: Record) -> bool:
    """Whether a record is of the whole of the paper's data set, in training and in validation."""
    return (
        bare(record.data.name) == bare(data.name)
        and is_whole_count(data, record.data.train_count)
        and _WHOLE * data.val_count <= record.data.val_count <= data.val_count
    )


def bare(name: str) -> str:
    """A name's letters and figures, in small letters."""
    return "".join(char for char in name.casefold() if char.isalnum())


def is_whole_count(data: DataSet, images: int | None) -> bool:
    """Whether so many training images are the whole of the paper's data set; not when it is unknown."""
    return images is not None and _WHOLE * data.train_count <= images <= data.train_count
