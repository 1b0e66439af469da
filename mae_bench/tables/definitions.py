"""The tables as data: rows and columns, which published figures, which records fill them. Add a table here.

Nothing here knows how a figure came about; `mae_bench.tables.build` joins definitions with records. What definitions are made
of is in `definition`; the classification protocols beyond Tables 3 and 12 are in `protocol_definitions`.
"""

from __future__ import annotations

from mae_bench.tables.data_sets import ADE20K, COCO, IMAGENET
from mae_bench.tables.definition import ONE, Definition, Method, Metric, PaperColumn, Published, Subjects
from mae_bench.tables.protocol_definitions import BASE, FOUR_SIZES, HUGE, LARGE, PROTOCOL_DEFINITIONS, fine_tuned
from mae_bench.tables.subjects import all_labels

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
        name="table4",
        title="Table 4: object detection and instance segmentation, COCO, Mask R-CNN, box AP and mask AP (%)",
        task="detection",
        protocols=("detection",),
        data=COCO,
        metrics=(Metric("box_ap", "box AP"), Metric("mask_ap", "mask AP")),
        columns=(
            PaperColumn("box AP ViT-B", "APbox_ViT-B", "box_ap", BASE, 1024),
            PaperColumn("box AP ViT-L", "APbox_ViT-L", "box_ap", LARGE, 1024),
            PaperColumn("mask AP ViT-B", "APmask_ViT-B", "mask_ap", BASE, 1024),
            PaperColumn("mask AP ViT-L", "APmask_ViT-L", "mask_ap", LARGE, 1024),
        ),
        published=(Published("mae_t4"),),
        methods=_DENSE_METHODS,
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
        methods=_DENSE_METHODS,
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
    *PROTOCOL_DEFINITIONS,
)
