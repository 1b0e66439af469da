"""Tables of semantic segmentation."""

from __future__ import annotations

from mae_bench.tables.definitions.classification import BASE, LARGE
from mae_bench.tables.definitions.data_sets import ADE20K
from mae_bench.tables.definitions.detection import DENSE_METHODS
from mae_bench.tables.definitions.schema import (
    Definition,
    Method,
    PaperColumn,
    Published,
    TableMetric,
)

TABLE5 = Definition(
    name="table5",
    title="Table 5: semantic segmentation, ADE20K, UPerNet, mIoU (%)",
    task="segmentation",
    protocols=("segmentation",),
    data=ADE20K,
    metrics=(TableMetric("mIoU"),),
    columns=(
        PaperColumn("ViT-B", "ViT-B", "mIoU", BASE, 512),
        PaperColumn("ViT-L", "ViT-L", "mIoU", LARGE, 512),
    ),
    published=(Published("mae_t5"),),
    methods=DENSE_METHODS,
)
SEGMENTATION_FROZEN = Definition(
    name="segmentation_frozen",
    title="Semantic segmentation with a frozen encoder and a linear head, ADE20K, mIoU (%)",
    task="segmentation",
    protocols=("segmentation_frozen",),
    data=ADE20K,
    metrics=(TableMetric("mIoU"),),
    columns=(PaperColumn("ViT-B", None, "mIoU", BASE, 512), PaperColumn("ViT-L", None, "mIoU", LARGE, 512)),
    methods=(Method("scratch"), Method("supervised"), Method("MoCo v3"), Method("BEiT"), Method("MAE")),
    notes=("the paper has no figures with a frozen encoder",),
)
