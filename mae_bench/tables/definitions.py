"""The tables as data: rows and columns, which published figures, which records fill them. Add a table here.

Nothing here knows how a figure came about; `mae_bench.tables.build` joins definitions with records.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """The paper's data set, counted in images. Runs on another, or on a part of it, get their own columns."""

    name: str  # as in `Record.data.name`
    title: str
    train_count: int
    val_count: int


@dataclass(frozen=True)
class Metric:
    """A figure of `Record.metrics`; `label` goes before the architecture where a table has several."""

    key: str
    label: str = ""


@dataclass(frozen=True)
class PaperColumn:
    """A column of the paper; `published` is its key there; no `arch` where our records can never fill it."""

    heading: str
    published: str
    metric: str
    arch: str | None = None
    img_size: int | None = None  # pixels


@dataclass(frozen=True)
class Method:
    """A row: `published` is its name in the published table, None where the paper has no such row."""

    label: str
    published: str | None = None


@dataclass(frozen=True)
class Definition:
    """A table. `published`: key in `published.yaml`; `long`: (column, value) keys if that has a row a cell."""

    name: str
    title: str
    published: str
    task: str
    protocols: tuple[str, ...]
    data: DataSet
    metrics: tuple[Metric, ...]
    columns: tuple[PaperColumn, ...]
    methods: tuple[Method, ...]
    long: tuple[str, str] | None = None


IMAGENET = DataSet("imagenet", "ImageNet-1K", train_count=1_281_167, val_count=50_000)
COCO = DataSet("coco", "COCO 2017", train_count=118_287, val_count=5_000)
ADE20K = DataSet("ade20k", "ADE20K", train_count=20_210, val_count=2_000)

_BASE, _LARGE, _HUGE = "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14"
_DENSE_METHODS = (
    Method("scratch"),
    Method("supervised", "supervised (IN1K w/ labels)"),
    Method("MoCo v3", "MoCo v3 (IN1K)"),
    Method("BEiT", "BEiT (IN1K+DALLE)"),
    Method("MAE", "MAE (IN1K)"),
)

DEFINITIONS = (
    Definition(
        name="table3",
        title="Table 3: image classification, fine-tuned end to end, ImageNet-1K, top-1 accuracy (%)",
        published="mae_t3",
        task="classification",
        protocols=("finetune", "scratch"),
        data=IMAGENET,
        metrics=(Metric("top1"),),
        columns=(
            PaperColumn("ViT-B", "ViT-B", "top1", _BASE, 224),
            PaperColumn("ViT-L", "ViT-L", "top1", _LARGE, 224),
            PaperColumn("ViT-H", "ViT-H", "top1", _HUGE, 224),
            PaperColumn("ViT-H448", "ViT-H448", "top1", _HUGE, 448),
        ),
        methods=(
            Method("scratch", "scratch, our impl."),
            Method("DINO", "DINO"),
            Method("MoCo v3", "MoCo v3"),
            Method("BEiT", "BEiT"),
            Method("MAE", "MAE"),
        ),
    ),
    Definition(
        name="table4",
        title="Table 4: object detection and instance segmentation, COCO, Mask R-CNN, box AP and mask AP (%)",
        published="mae_t4",
        task="detection",
        protocols=("detection",),
        data=COCO,
        metrics=(Metric("box_ap", "box AP"), Metric("mask_ap", "mask AP")),
        columns=(
            PaperColumn("box AP ViT-B", "APbox_ViT-B", "box_ap", _BASE, 1024),
            PaperColumn("box AP ViT-L", "APbox_ViT-L", "box_ap", _LARGE, 1024),
            PaperColumn("mask AP ViT-B", "APmask_ViT-B", "mask_ap", _BASE, 1024),
            PaperColumn("mask AP ViT-L", "APmask_ViT-L", "mask_ap", _LARGE, 1024),
        ),
        methods=_DENSE_METHODS,
    ),
    Definition(
        name="table5",
        title="Table 5: semantic segmentation, ADE20K, UPerNet, mIoU (%)",
        published="mae_t5",
        task="segmentation",
        protocols=("segmentation",),
        data=ADE20K,
        metrics=(Metric("mIoU"),),
        columns=(
            PaperColumn("ViT-B", "ViT-B", "mIoU", _BASE, 512),
            PaperColumn("ViT-L", "ViT-L", "mIoU", _LARGE, 512),
        ),
        methods=_DENSE_METHODS,
    ),
    Definition(
        name="table12",
        title="Table 12: image classification, linear probe, ImageNet-1K, top-1 accuracy (%)",
        published="mae_t12",
        task="classification",
        protocols=("linear",),
        data=IMAGENET,
        metrics=(Metric("top1"),),
        columns=(
            PaperColumn("iGPT-L", "iGPT-L", "top1"),
            PaperColumn("iGPT-XL", "iGPT-XL", "top1"),
            PaperColumn("ViT-B", "ViT-B", "top1", _BASE, 224),
            PaperColumn("ViT-L", "ViT-L", "top1", _LARGE, 224),
            PaperColumn("ViT-H", "ViT-H", "top1", _HUGE, 224),
        ),
        methods=(Method("scratch"), Method("iGPT", "iGPT"), Method("BEiT", "BEiT"), Method("MAE", "MAE")),
        long=("model", "acc"),
    ),
)
