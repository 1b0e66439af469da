"""The tables as data: rows and columns, which published figures, which records fill them. Add a table here.

Nothing here knows how a figure came about; `mae_bench.tables.build` joins definitions with records. What definitions are made
of is in `definition`; the classification protocols beyond Tables 3 and 12 are in `protocol_definitions`.
"""

from __future__ import annotations

from collections.abc import Iterable

from mae_bench.record import Record
from mae_bench.tables.counting import is_whole
from mae_bench.tables.data_sets import ADE20K, COCO, IMAGENET
from mae_bench.tables.definition import (
    ANY,
    ONE,
    Definition,
    Delta,
    Method,
    Metric,
    PaperColumn,
    Published,
    Subject,
    Subjects,
)
from mae_bench.tables.detection_definitions import DENSE_METHODS, DETECTION_DEFINITIONS, FPN_NOTE, with_fpn
from mae_bench.tables.model import Chart
from mae_bench.tables.protocol_definitions import BASE, FOUR_SIZES, HUGE, LARGE, PROTOCOL_DEFINITIONS, fine_tuned
from mae_bench.tables.subjects import all_labels, millions, pretraining_target

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


def _sized(record: Record) -> float | None:
    """The subject of Figure 8: how large the encoder is. On ImageNet-1K only at the paper's input size."""
    return (
        None
        if all_labels(record) is None or (is_whole(IMAGENET, record) and record.img_size != 224)
        else millions(record)
    )


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


DEFINITIONS = (
    Definition(
        name="table3",
        title="Table 3: image classification, fine-tuned end to end, ImageNet-1K, top-1 accuracy (%)",
        task="classification",
        protocols=("finetune", "scratch"),
        data=IMAGENET,
        metrics=(Metric("top1"),),
        columns=FOUR_SIZES,
        published=(Published("mae_t3"),),
        subjects=Subjects("", fine_tuned, ONE),
        methods=(
            Method("scratch", "scratch, our impl."),
            Method("DINO", "DINO"),
            Method("MoCo v3", "MoCo v3"),
            Method("BEiT", "BEiT"),
            Method("MAE", "MAE"),
        ),
    ),
    Definition(
        name="table5",
        title="Table 5: semantic segmentation, ADE20K, UPerNet, mIoU (%)",
        task="segmentation",
        protocols=("segmentation",),
        data=ADE20K,
        metrics=(Metric("mIoU"),),
        columns=(
            PaperColumn("ViT-B", "ViT-B", "mIoU", BASE, 512),
            PaperColumn("ViT-L", "ViT-L", "mIoU", LARGE, 512),
        ),
        published=(Published("mae_t5"),),
        methods=DENSE_METHODS,
    ),
    Definition(
        name="segmentation_frozen",
        title="Semantic segmentation with a frozen encoder, ADE20K, UPerNet, mIoU (%)",
        task="segmentation",
        protocols=("segmentation_frozen",),
        data=ADE20K,
        metrics=(Metric("mIoU"),),
        columns=(PaperColumn("ViT-B", None, "mIoU", BASE, 512), PaperColumn("ViT-L", None, "mIoU", LARGE, 512)),
        methods=(Method("scratch"), Method("supervised"), Method("MoCo v3"), Method("BEiT"), Method("MAE")),
        notes=("the paper has no figures with a frozen encoder",),
    ),
    Definition(
        name="table7",
        title="Table 7: pixels or tokens as the target, ImageNet-1K top-1, COCO box AP, ADE20K mIoU (%)",
        task="classification",
        protocols=("finetune", "detection_fpn", "segmentation"),
        instead=("detection",),
        instead_note=FPN_NOTE,
        data=IMAGENET,
        data_of={"fine-tuning": IMAGENET, "detection": COCO, "segmentation": ADE20K},
        metrics=(
            Metric("top1", "top-1", "fine-tuning"),
            Metric("box_ap", "box AP", "detection"),
            Metric("mIoU", "mIoU", "segmentation"),
        ),
        columns=tuple(_table7_columns()),
        methods=tuple(Method(target.label, target.label) for target in _TARGETS),
        published=(Published("mae_t7"),),
        subjects=Subjects("", _compared, ONE),
        method=pretraining_target,
        kind=lambda record: _KINDS[record.task],
        never_compared={"dVAE token": "ids of a tokenizer trained here, not of DALL-E's dVAE"},
        delta=Delta(_TARGETS[3], _TARGETS[2].label, _TARGETS[1].label),
        notes=("ours: runs from pre-trainings of ours; a checkpoint from elsewhere does not say what its target was",),
    ),
    Definition(
        name="fig8",
        title="Figure 8: MAE pre-training against supervised training by model size, ImageNet-1K, top-1 accuracy (%)",
        task="classification",
        protocols=("finetune", "scratch"),
        data=IMAGENET,
        metrics=(Metric("top1"),),
        columns=(PaperColumn("fine-tuned", "", "top1", ANY, 224),),
        methods=(Method("MAE", "MAE, IN1K"), Method("scratch", "supervised, IN1K, our impl.")),
        published=(Published("mae_fig8", column="subject"),),
        subjects=Subjects(
            "encoder",
            _sized,
            tuple(
                Subject(f"{name}, {size} M", float(size), name)
                for name, size in (("ViT-B", 86), ("ViT-L", 304), ("ViT-H", 632))
            ),
            label=lambda size: f"{size:g} M",
        ),
        notes=(
            "scratch: supervised training on ImageNet-1K alone, as the authors of MAE ran it",
            "left out: the two curves that the figure takes from the ViT paper (trained on ImageNet-1K, on JFT-300M), whose "
            "figures nobody here has read in their source",
        ),
        chart=Chart("encoder parameters (millions)", "top-1 accuracy (%)", "steps"),
    ),
    Definition(
        name="table12",
        title="Table 12: image classification, linear probe, ImageNet-1K, top-1 accuracy (%)",
        task="classification",
        protocols=("linear",),
        data=IMAGENET,
        metrics=(Metric("top1"),),
        columns=(
            PaperColumn("iGPT-L", "iGPT-L", "top1"),
            PaperColumn("iGPT-XL", "iGPT-XL", "top1"),
            PaperColumn("ViT-B", "ViT-B", "top1", BASE, 224),
            PaperColumn("ViT-L", "ViT-L", "top1", LARGE, 224),
            PaperColumn("ViT-H", "ViT-H", "top1", HUGE, 224),
        ),
        methods=(Method("scratch"), Method("iGPT", "iGPT"), Method("BEiT", "BEiT"), Method("MAE", "MAE")),
        published=(Published("mae_t12", long=("model", "acc")),),
        subjects=Subjects("", all_labels, ONE),
    ),
    *DETECTION_DEFINITIONS,
    *PROTOCOL_DEFINITIONS,
)
