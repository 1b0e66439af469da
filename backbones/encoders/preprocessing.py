"""What an encoder expects of an image, and where each of these facts is known from. No images are opened here, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from backbones.errors import UserError, unknown

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
CROP_MODES = ("center", "squash", "border")  # timm's: centre crop; the whole image made square; padded to a square

ASSUMED = "family default"
ARCHITECTURE = {"net": "architecture", "heads": "attention heads"}  # facts of `Checkpoint.sources`, as people call them


@dataclass(frozen=True)
class Preprocessing:
    """From an image file to the tensor that enters the encoder.

    Attributes:
        mean: RGB, of pixels in 0..1; None where nothing tells and nothing may be guessed.
        std: likewise.
        interpolation: of `INTERPOLATIONS`.
        crop_pct: side of the evaluation crop as a share of the resized image.
        img_size: pixels, (height, width), that the encoder was trained at.
        crop_mode: of `CROP_MODES`.
        source: where each fact is known from, by its name; what begins with "family default" was told by nothing.
    """

    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    interpolation: str
    crop_pct: float
    img_size: tuple[int, int]
    crop_mode: str = "center"
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or not all(0 <= v <= 1 for v in values)):
                raise UserError(f"encoder.{name}={list(values)}: give three numbers (RGB) of pixels in 0..1")
        if self.std is not None and min(self.std) == 0:
            raise UserError(f"encoder.std={list(self.std)}: give three numbers above 0")
        if self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS, where="encoder.interpolation")
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"encoder.crop_pct={self.crop_pct}: give a share above 0, up to 1")
        if self.crop_mode not in CROP_MODES:
            raise unknown("crop mode", self.crop_mode, CROP_MODES)

    @property
    def assumed(self) -> list[str]:
        """Facts that nothing tells, taken from the family's default: tables note them."""
        return [name for name, where in self.source.items() if where.startswith(ASSUMED)]

    @property
    def is_imagenet(self) -> bool:
        """Whether it is what every task did before encoders said theirs: ImageNet's mean and deviation, official crop."""
        facts = (self.mean, self.std, self.interpolation, self.crop_pct, self.crop_mode)
        default = family_default(self.img_size, "")
        return facts == (default.mean, default.std, default.interpolation, default.crop_pct, default.crop_mode)

    def known(self, path: object) -> Preprocessing:
        """Itself, or a UserError: a measurement needs mean and deviation."""
        if self.mean is None or self.std is None:
            raise UserError(
                f"{path}: nothing tells the mean and deviation that it was trained with: "
                "give --set encoder.mean=[…] and --set encoder.std=[…] (RGB, of pixels in 0..1)"
            )
        return self

    def overridden(self, **told: Any) -> Preprocessing:
        """With what the recipe says instead (``encoder.mean`` and so on); None leaves a fact as it is."""
        changes = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in told.items() if v is not None}
        source = {**self.source, **{name: f"encoder.{name} of the recipe" for name in changes}}
        return replace(self, **changes, source=source) if changes else self  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """As ``inspect --json`` and the record have it: plain data."""
        content = asdict(self)
        return {
            k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v for k, v in content.items()
        }


FACTS = tuple(f.name for f in fields(Preprocessing) if f.name != "source")


def family_default(img_size: tuple[int, int], why: str) -> Preprocessing:
    """ImageNet's mean and deviation and the official evaluation crop (util/datasets.py of facebookresearch/mae).

    Args:
        why: what the default rests on, such as "MAE's files say nothing".
    """
    crop_pct = 224 / 256 if max(img_size) <= 224 else 1.0
    where = f"{ASSUMED}: {why}"
    source = {**dict.fromkeys(FACTS, where), "img_size": "the checkpoint"}
    return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic", crop_pct, img_size, source=source)


def not_told(img_size: tuple[int, int], why: str) -> Preprocessing:
    """Mean and deviation left open: `Preprocessing.known` asks for them. The evaluation crop is the official one."""
    default = family_default(img_size, "the official evaluation crop")
    source = {**default.source, "mean": f"not told: {why}", "std": f"not told: {why}"}
    return replace(default, mean=None, std=None, source=source)
