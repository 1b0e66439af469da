"""The detection tables as data: Table 4 and its schedules (the detector of Li et al. 2021), ViTDet's tables on COCO and LVIS.

The figures of ViTDet's paper and of its released code differ in places; both are shown, each with its source. Ours are set
against the released code's: its recipes are ours, and its weights can be evaluated here.
"""

from __future__ import annotations

from mae_bench.records.record import Record
from mae_bench.tables.definitions.classification import BASE, HUGE, LARGE
from mae_bench.tables.definitions.data_sets import COCO, LVIS, is_whole
from mae_bench.tables.definitions.schema import (
    ANY,
    ONE,
    Definition,
    Method,
    PaperColumn,
    Published,
    Subject,
    Subjects,
    TableMetric,
)
from mae_bench.tables.definitions.subjects import paper_detector, recipe_key
from mae_bench.tables.table import Chart

DENSE_METHODS = (
    Method("scratch"),
    Method("supervised", "supervised (IN1K w/ labels)"),
    Method("MoCo v3", "MoCo v3 (IN1K)"),
    Method("BEiT", "BEiT (IN1K+DALLE)"),
    Method("MAE", "MAE (IN1K)"),
)
FPN_NOTE = (
    "ours on other data than COCO: ViTDet's detector (protocol detection), where no run of detection_fpn is there"
)
_BOX_AND_MASK = (TableMetric("box_ap", "box AP"), TableMetric("mask_ap", "mask AP"))
_RELEASED, _PAPER = "MAE", "MAE, paper"
_SIZES = {"ViT-B": BASE, "ViT-L": LARGE, "ViT-H": HUGE}


def detector(record: Record) -> str:
    """Mask R-CNN or Cascade."""
    return "Cascade" if recipe_key(record, "detection.cascade") else "Mask R-CNN"


def with_fpn(record: Record) -> bool:
    """Whether it is of Table 4's detector, or of ViTDet's on data that no published figure is of."""
    return record.protocol == "detection_fpn" or not is_whole(COCO, record)


def epochs(record: Record) -> float | None:
    """Epochs of fine-tuning; a schedule of a published length, counted on 118,000 images, by its round number."""
    if not with_fpn(record):
        return None
    count = recipe_key(record, "schedule.epochs")
    iterations, batch = recipe_key(record, "schedule.iterations"), recipe_key(record, "train.batch_size")
    if iterations and batch and record.data.train_count:
        count = iterations * batch / record.data.train_count
    if not count:
        return None
    return next((float(n) for n in (25, 50, 100) if abs(count - n) < 0.02 * n), round(float(count), 1))


def _columns(*asked: tuple[str, str, str]) -> tuple[PaperColumn, ...]:
    return tuple(PaperColumn(f"{kind} {label}", "", metric, ANY, 1024, kind) for kind, label, metric in asked)


def _released(kind: str, table: str, sizes: tuple[str, ...] = tuple(_SIZES), others: tuple[str, ...] = ()) -> Published:
    """The cells of a table of ViTDet's README."""
    columns = {f"{kind} box AP": "box_AP", f"{kind} mask AP": "mask_AP"}
    rows = {(size, _RELEASED): f"ViTDet, {size}" for size in sizes}
    rows |= {(name, "IN21K, README"): name for name in others}
    return Published(
        table,
        cells={(*row, heading): (name, key) for row, name in rows.items() for heading, key in columns.items()},
    )


_OTHERS = ("Swin-B", "Swin-L", "MViTv2-B", "MViTv2-L", "MViTv2-H")
_LEARNT = {"1K sup": "supervised", "21K sup": "IN21K", "1K MAE": _PAPER}
_TABLE9_ROWS = (
    *((name, kind) for name, kind in (("Swin-B", "1K sup"), ("MViTv2-B", "1K sup"), ("MViTv2-L", "1K sup"))),
    *((name, "21K sup") for name in _OTHERS),
    *((name, "1K MAE") for name in _SIZES),
)
_TABLE9_COLUMNS = {
    "Mask R-CNN box AP": "M_APbox",
    "Mask R-CNN mask AP": "M_APmask",
    "Cascade box AP": "C_APbox",
    "Cascade mask AP": "C_APmask",
}
_TABLE10_COLUMNS = {"box AP": "APbox", "mask AP": "APmask", "mask AP rare": "APmask_rare"}
_TABLE10_ROWS = {
    "IN-1K, supervised": "supervised",
    "IN-21K, supervised": "IN21K",
    "IN-1K, MAE": _PAPER,
}
_METHODS = (
    Method("scratch"),
    Method("supervised"),
    Method("IN21K"),
    Method("IN21K, README"),
    Method(_PAPER),
    Method(_RELEASED),
)
_BACKBONES = Subjects(
    "backbone",
    lambda record: record.arch,
    (
        *(Subject(name, f"({name})") for name in _OTHERS),  # no architecture of ours
        *(Subject(name, arch) for name, arch in _SIZES.items()),
    ),
    label=str,
)
_VITDET_NOTES = (
    "MAE: figures of the released models, which ours are set against; MAE, paper: figures of the ViTDet paper, which differ "
    "in places",
    "supervised: pre-trained on labels of ImageNet-1K; IN21K: on those of ImageNet-21K, by the paper and by the README",
    "the spread over seeds is the README's, five runs of ViT-B; its detector is not named, taken here to be Mask R-CNN",
)

DETECTION_DEFINITIONS = (
    Definition(
        name="table4",
        title="Table 4: object detection and instance segmentation, COCO, Mask R-CNN, box AP and mask AP (%)",
        task="detection",
        protocols=("detection_fpn",),
        fallback_protocols=("detection",),
        fallback_note=FPN_NOTE,
        data=COCO,
        metrics=_BOX_AND_MASK,
        columns=(
            PaperColumn("box AP ViT-B", "APbox_ViT-B", "box_ap", BASE, 1024),
            PaperColumn("box AP ViT-L", "APbox_ViT-L", "box_ap", LARGE, 1024),
            PaperColumn("mask AP ViT-B", "APmask_ViT-B", "mask_ap", BASE, 1024),
            PaperColumn("mask AP ViT-L", "APmask_ViT-L", "mask_ap", LARGE, 1024),
        ),
        published=(Published("mae_t4"),),
        subjects=Subjects("", lambda record: "" if with_fpn(record) else None, ONE),
        methods=DENSE_METHODS,
        notes=(
            "published: each figure is that of the best length of fine-tuning (Li et al. 2021); of ours every length is a row "
            "of its own, see also table4_schedule",
        ),
        recipe_of=paper_detector,
        recipe_leaves_open=("schedule.epochs", "schedule.iterations"),
    ),
    Definition(
        name="table4_schedule",
        title="Detector of Table 4 by epochs of fine-tuning, COCO, Mask R-CNN, box AP and mask AP (%)",
        task="detection",
        protocols=("detection_fpn",),
        fallback_protocols=("detection",),
        fallback_note=FPN_NOTE,
        data=COCO,
        metrics=_BOX_AND_MASK,
        columns=(
            PaperColumn("box AP ViT-B", "APbox", "box_ap", BASE, 1024),
            PaperColumn("mask AP ViT-B", "APmask", "mask_ap", BASE, 1024),
        ),
        methods=(Method("MAE"),),
        published=(Published("li21_schedule_B", row="subject", method="MAE"),),
        subjects=Subjects(
            "epochs",
            epochs,
            tuple(Subject(str(n), float(n), str(n)) for n in (25, 50, 100)),
            label=lambda count: f"{count:g}",
        ),
        notes=("the paper has the 100 epochs alone; the others are its authors', told in an issue",),
        chart=Chart("epochs of fine-tuning", "AP (%)", "linear"),
    ),
    Definition(
        name="vitdet_coco",
        title="ViTDet, Tables 5 and 9: COCO, box AP and mask AP (%)",
        task="detection",
        protocols=("detection",),
        data=COCO,
        metrics=_BOX_AND_MASK,
        columns=_columns(
            ("Mask R-CNN", "box AP", "box_ap"),
            ("Mask R-CNN", "mask AP", "mask_ap"),
            ("Cascade", "box AP", "box_ap"),
            ("Cascade", "mask AP", "mask_ap"),
        ),
        methods=_METHODS,
        published=(
            Published(
                "vitdet_t9",
                cells={
                    (name, _LEARNT[kind], heading): (f"{name} {kind}", key)
                    for name, kind in _TABLE9_ROWS
                    for heading, key in _TABLE9_COLUMNS.items()
                },
            ),
            _released("Mask R-CNN", "vitdet_readme_coco_mask"),
            _released("Cascade", "vitdet_readme_coco_cascade", others=_OTHERS),
        ),
        subjects=_BACKBONES,
        kind=detector,
        notes=_VITDET_NOTES,
    ),
    Definition(
        name="vitdet_lvis",
        title="ViTDet, Table 10: LVIS v1, box AP and mask AP, of all and of rare classes (%)",
        task="detection",
        protocols=("lvis",),
        data=LVIS,
        metrics=(*_BOX_AND_MASK, TableMetric("mask_apr", "mask AP rare")),
        columns=_columns(
            ("Mask R-CNN", "box AP", "box_ap"),
            ("Mask R-CNN", "mask AP", "mask_ap"),
            ("Mask R-CNN", "mask AP rare", "mask_apr"),
            ("Cascade", "box AP", "box_ap"),
            ("Cascade", "mask AP", "mask_ap"),
            ("Cascade", "mask AP rare", "mask_apr"),
        ),
        methods=_METHODS,
        published=(
            Published(
                "vitdet_t10",
                cells={
                    (f"ViT-{size}", method, f"Mask R-CNN {heading}"): (row, f"{key}_{size}")
                    for size in "BL"
                    for row, method in _TABLE10_ROWS.items()
                    for heading, key in _TABLE10_COLUMNS.items()
                },
            ),
            _released("Mask R-CNN", "vitdet_readme_lvis_mask"),
            _released("Cascade", "vitdet_readme_lvis_cascade", others=_OTHERS),
        ),
        subjects=_BACKBONES,
        kind=detector,
        notes=_VITDET_NOTES,
    ),
)
