"""Which table shows a recipe's runs."""

from __future__ import annotations

from mae_bench.tables.definitions.data_sets import TRANSFER, bare
from tasks.recipe import Recipe

TABLES = {
    "finetune": "table3",
    "scratch": "table3",
    "linear": "table12",
    "partial": "fig9",
    "knn": "knn",
    "robustness": "table13",
    "detection": "vitdet_coco",
    "detection_fpn": "table4",
    "lvis": "vitdet_lvis",
    "segmentation_frozen": "segmentation_frozen",
    "segmentation": "table5",
}


def table_of(recipe: Recipe) -> str | None:
    """The table that shows a recipe's runs; None where there is none."""
    table = TABLES.get(recipe.protocol)
    if table != "table3":
        return table
    if recipe.data.label_share or recipe.data.label_list:
        return "lowshot"
    return "table6" if bare(recipe.data.name) in {data.name for data in TRANSFER} else table
