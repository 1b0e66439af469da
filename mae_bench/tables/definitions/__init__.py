"""The tables as data: rows and columns, which published figures, which records fill them. Add a table here.

Nothing here knows how a figure came about; `mae_bench.tables.fill` joins definitions with records. What definitions are
made of is in `schema`; a file for each kind of table lies beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import entry_points

from backbones.errors import UserError
from mae_bench.records.record import Record
from mae_bench.tables.definitions.ablations import ABLATIONS, TABLE1
from mae_bench.tables.definitions.classification import (
    BASE,
    FIGURE8,
    HUGE,
    LARGE,
    PROTOCOL_DEFINITIONS,
    TABLE3,
    TABLE12,
)
from mae_bench.tables.definitions.data_sets import ADE20K, COCO, IMAGENET
from mae_bench.tables.definitions.detection import DETECTION_DEFINITIONS, FPN_NOTE, with_fpn
from mae_bench.tables.definitions.schema import (
    ONE,
    Definition,
    Delta,
    Method,
    PaperColumn,
    Published,
    Subjects,
    TableMetric,
)
from mae_bench.tables.definitions.segmentation import SEGMENTATION_FROZEN, TABLE5
from mae_bench.tables.definitions.subjects import all_labels, paper_recipe, pretraining_target
from tasks import load_entry_point

_KINDS = {"classification": "fine-tuning", "detection": "detection", "segmentation": "segmentation"}
_TARGETS = (
    Method("pixel (w/o norm)"),
    Method("pixel (w/ norm)"),
    Method("dVAE token"),
    Method("delta (token - norm pixel)"),
)


def _compared(record: Record) -> str | None:
    """The one subject of Table 7: all labels, and the detector of Table 4."""
    if record.task == "detection":
        return "" if with_fpn(record) else None
    return all_labels(record)


def _fine_tuning(record: Record) -> str | None:
    """Table 9's recipe, the default of the paper's ablations; normalised pixels have Table 3's figures, and so its recipe."""
    if record.task != "classification":
        return None
    return paper_recipe(record) + ("" if pretraining_target(record) == _TARGETS[1].label else "_table9")


def _table7_columns() -> Iterable[PaperColumn]:
    for data, metric, kind, size in (
        ("IN1K", "top1", "fine-tuning", 224),
        ("COCO", "box_ap", "detection", 1024),
        ("ADE20K", "mIoU", "segmentation", 512),
    ):
        for letter, arch in zip("BLH", (BASE, LARGE, HUGE), strict=True):
            if arch == HUGE and data != "IN1K":
                continue
            yield PaperColumn(f"{data} ViT-{letter}", f"{data}_{letter}", metric, arch, size, kind)


TABLE7 = Definition(
    name="table7",
    title="Table 7: pixels or tokens as the target, ImageNet-1K top-1, COCO box AP, ADE20K mIoU (%)",
    task="classification",
    protocols=("finetune", "detection_fpn", "segmentation"),
    fallback_protocols=("detection",),
    fallback_note=FPN_NOTE,
    data=IMAGENET,
    data_of={"fine-tuning": IMAGENET, "detection": COCO, "segmentation": ADE20K},
    metrics=(
        TableMetric("top1", "top-1", "fine-tuning"),
        TableMetric("box_ap", "box AP", "detection"),
        TableMetric("mIoU", "mIoU", "segmentation"),
    ),
    columns=tuple(_table7_columns()),
    methods=tuple(Method(target.label, target.label) for target in _TARGETS),
    published=(Published("mae_t7"),),
    subjects=Subjects("", _compared, ONE),
    method=pretraining_target,
    kind=lambda record: _KINDS[record.task],
    recipe_of=_fine_tuning,
    never_compared={"dVAE token": "ids of a tokenizer trained here, not of DALL-E's dVAE"},
    delta=Delta(_TARGETS[3], _TARGETS[2].label, _TARGETS[1].label),
    notes=("ours: runs from pre-trainings of ours; a checkpoint from elsewhere does not say what its target was",),
)

DEFINITIONS = (
    TABLE3,
    TABLE5,
    SEGMENTATION_FROZEN,
    TABLE7,
    FIGURE8,
    TABLE12,
    *DETECTION_DEFINITIONS,
    *PROTOCOL_DEFINITIONS,
)

ENTRY_POINTS = "mae_bench.tables"
"""Entry-point group of other packages' tables: ``depth = "their_package.tables:DEPTH"``, a `Definition` or several."""


@lru_cache(maxsize=1)
def definitions() -> tuple[Definition, ...]:
    """Every table of methods: ours, then those of installed packages.

    Raises:
        UserError: an installed package's table cannot be loaded, is none, or has a name that is taken.
    """
    found = list(DEFINITIONS)
    taken = {TABLE1, "table2", "encoders", *(a.name for a in ABLATIONS), *(d.name for d in found)}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        where = f"entry point {point.name} of {ENTRY_POINTS} ({point.value})"
        loaded = load_entry_point(point, where)
        for each in loaded if isinstance(loaded, (list, tuple)) else [loaded]:
            if not isinstance(each, Definition):
                raise UserError(
                    f"{where}: holds a {type(each).__name__}, not a Definition (mae_bench.tables.definitions.schema)"
                )
            if each.name in taken:
                raise UserError(f"{where}: there is a table {each.name} already: give it another name")
            taken.add(each.name)
            found.append(each)
    return tuple(found)
