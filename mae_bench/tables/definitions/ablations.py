"""The paper's ablations as data: what is varied, the rows, which published figures. Add a row or a table here.

`mae_bench.tables.fill.ablations` joins them with records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mae_bench.tables.table import Chart

TABLE1 = "table1"  # its parts are table1a … table1f

# The default of the paper's ablations (Table 1, shaded), by the keys of a pre-training's settings
# (`mae_bench.recipes.pretraining`).
PAPER: dict[str, Any] = {
    "encoder.arch": "vit_large_patch16",
    "data.name": "imagenet",
    "schedule.epochs": 800,
    "mae.decoder_depth": 8,
    "mae.decoder_embed_dim": 512,
    "mae.encoder_mask_tokens": False,
    "mae.target": "pixels",
    "mae.mask_sampling": "random",
    "mae.mask_ratio": 0.75,
    "augmentation.crop": "random",
    "augmentation.scale": [0.2, 1.0],
    "augmentation.hflip": True,
    "augmentation.color_jitter": 0.0,
}
PAPER_IMG_SIZE = 224
# The recipes that the paper's cells stand for, by protocol: its Tables 9 and 10, the defaults of its ablations.
PAPER_RECIPES = {"finetune": "finetune/{arch}_imagenet_table9", "linear": "linear/{arch}_imagenet"}


@dataclass(frozen=True)
class AblationRow:
    """A row. `published`: its name in the published table, with `where` to tell namesakes apart.

    A pre-training belongs to the first row whose `settings` it has. `apart` says why its figures are never set against the
    published ones, where that is so; `note` is said where a run fills it.
    """

    label: str
    settings: Mapping[str, Any]
    published: Any
    where: Mapping[str, Any] = field(default_factory=dict)
    default: bool = False
    apart: str = ""
    note: str = ""
    x: float | None = None  # where it stands in a drawing


@dataclass(frozen=True)
class AblationColumn:
    """A column: `metric` of runs of `protocol`, or with no protocol a figure of the pre-training itself.

    "flops_ratio" is its FLOPs, as a multiple of the default row's; others are published only.
    """

    heading: str
    published: str
    protocol: str | None
    unit: str = ""
    metric: str = "top1"


@dataclass(frozen=True)
class Ablation:
    """A table. `keys` are all settings that its rows may change: a pre-training that changes another one is not in it.

    With `own_values`, values of its only key that several runs have and the paper has not get rows of their own.
    """

    name: str
    title: str
    published: str
    factor: str  # heads the column of rows
    keys: tuple[str, ...]
    rows: tuple[AblationRow, ...]
    columns: tuple[AblationColumn, ...] = (
        AblationColumn("fine-tuning", "ft", "finetune"),
        AblationColumn("linear", "lin", "linear"),
    )
    chart: Chart | None = None
    own_values: bool = False
    arch: str = str(PAPER["encoder.arch"])

    @property
    def paper(self) -> dict[str, Any]:
        """The paper's settings of the default row."""
        return {**PAPER, "encoder.arch": self.arch}


def _values(key: str, values: tuple[int, ...], default: int, *, scale: float = 1) -> tuple[AblationRow, ...]:
    return tuple(AblationRow(str(v), {key: v * scale}, v, default=v == default, x=v) for v in values)


TARGET_KEYS = ("mae.target", "mae.pca_components", "mae.tokenizer", "mae.vocabulary")
_COLUMNS = Ablation.columns
_SAMPLING = ("mae.mask_sampling", "mae.mask_ratio")

ABLATIONS = (
    Ablation(
        "table1a",
        "Table 1a: decoder depth (blocks)",
        "mae_t1a",
        "blocks",
        ("mae.decoder_depth",),
        _values("mae.decoder_depth", (1, 2, 4, 8, 12), 8),
    ),
    Ablation(
        "table1b",
        "Table 1b: decoder width",
        "mae_t1b",
        "dim",
        ("mae.decoder_embed_dim", "mae.decoder_num_heads"),
        _values("mae.decoder_embed_dim", (128, 256, 512, 768, 1024), 512),
    ),
    Ablation(
        "table1c",
        "Table 1c: mask tokens in the encoder",
        "mae_t1c",
        "case",
        ("mae.encoder_mask_tokens",),
        (
            AblationRow("encoder w/ [M]", {"mae.encoder_mask_tokens": True}, "encoder w/ [M]"),
            AblationRow("encoder w/o [M]", {"mae.encoder_mask_tokens": False}, "encoder w/o [M]", default=True),
        ),
        (*_COLUMNS, AblationColumn("FLOPs", "FLOPs", None, unit="x", metric="flops_ratio")),
    ),
    Ablation(
        "table1d",
        "Table 1d: reconstruction target",
        "mae_t1d",
        "case",
        TARGET_KEYS,
        (
            AblationRow("pixel (w/o norm)", {"mae.target": "pixels"}, "pixel (w/o norm)", default=True),
            AblationRow(
                "pixel (w/ norm)",
                {"mae.target": "pixels_norm"},
                "pixel (w/ norm)",
                note="the paper does not say by which recipe this row is fine-tuned; Table 9's, its default for ablations, "
                "fills the cell, and not FINETUNE.md's, which was made for normalised pixels",
            ),
            AblationRow("PCA", {"mae.target": "pca"}, "PCA"),
            AblationRow(
                "dVAE token",
                {"mae.target": "tokens"},
                "dVAE token",
                apart="ids of a tokenizer trained here, not of DALL-E's dVAE",
            ),
        ),
    ),
    Ablation(
        "table1e",
        "Table 1e: data augmentation",
        "mae_t1e",
        "case",
        ("augmentation.crop", "augmentation.color_jitter"),
        (
            AblationRow("none", {"augmentation.crop": "none"}, "none"),
            AblationRow("crop, fixed size", {"augmentation.crop": "fixed"}, "crop, fixed size"),
            AblationRow(
                "crop, rand size",
                {"augmentation.crop": "random", "augmentation.color_jitter": 0.0},
                "crop, rand size",
                default=True,
            ),
            AblationRow("crop + color jit", {"augmentation.crop": "random"}, "crop + color jit"),
        ),
    ),
    Ablation(
        "table1f",
        "Table 1f: mask sampling",
        "mae_t1f",
        "case, ratio (%)",
        _SAMPLING,
        tuple(
            AblationRow(
                f"{sampling} {ratio}",
                dict(zip(_SAMPLING, (sampling, ratio / 100), strict=True)),
                sampling,
                {"ratio": ratio},
                default=sampling == "random",
            )
            for sampling, ratio in (("random", 75), ("block", 50), ("block", 75), ("grid", 75))
        ),
    ),
    Ablation(
        "fig5",
        "Figure 5: masking ratio",
        "mae_fig5",
        "ratio (%)",
        ("mae.mask_ratio",),
        _values("mae.mask_ratio", (10, 20, 30, 40, 50, 60, 70, 75, 80, 90), 75, scale=0.01),
        chart=Chart("masking ratio (%)", "top-1 accuracy (%)", "linear"),
    ),
    Ablation(
        "fig7",
        "Figure 7: pre-training schedule",
        "mae_fig7",
        "epochs",
        ("schedule.epochs",),
        _values("schedule.epochs", (100, 200, 400, 800, 1600), 800),
        chart=Chart("epochs of pre-training (log scale)", "top-1 accuracy (%)", "log"),
        own_values=True,
    ),
)
