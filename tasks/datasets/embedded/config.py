"""What can be chosen about the embedded data set, in plain fields that a recipe can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from backbones.errors import UserError, unknown
from tasks.kinds import wrong_kind

NATIVE_DIGIT = 28
"""Side in pixels of an MNIST tile; a digit's ink spans about 20 of them."""
PRETRAIN_PICTURES = ("singles", "pieces")
_OF_PIECES = ("pretrain_pictures", "pretrain_size", "pretrain_digit_size", "pretrain_digits")


@dataclass
class EmbeddedConfig:
    """Sizes in pixels, counts in pictures, ranges as ``[smallest, largest]``, both ends included.

    A digit's size is the side of its MNIST tile after scaling, of which the ink spans about 5/7. The
    defaults for classification are the difficulty at which MAE pre-training of a small ViT was seen to
    help: large bright digits on photographs dimmed to half.
    """

    seed: int = 0
    background_brightness: float = 0.5
    """Factor on the photographs, 0 to 1."""
    ink_brightness: float = 0.75
    """Smallest value of each colour channel of a digit's ink, 0 to 1; the largest is 1."""

    image_size: int = 48
    digit_size: list[int] = field(default_factory=lambda: [34, 46])
    pretrain_count: int = 8000
    """Pictures without a label, for pre-training; drawn from the training digits and photographs."""
    pretrain_pictures: str = "singles"
    """What pre-training sees: ``singles``, one whole digit as in classification, hence always about the middle; or
    ``pieces``, several digits and pieces of digits of all sizes, at any place alike, out of ``pretrain_*`` below."""
    pretrain_size: int = 64
    pretrain_digit_size: list[int] = field(default_factory=lambda: [28, 64])
    pretrain_digits: list[int] = field(default_factory=lambda: [2, 5])
    """Digits asked for per picture; some lie mostly outside of it, and some find no free place."""
    train_count: int = 2000
    val_count: int = 1000

    scene_size: int = 96
    scene_digit_size: list[int] = field(default_factory=lambda: [40, 60])
    scene_digits: list[int] = field(default_factory=lambda: [1, 4])
    """Digits asked for per scene; a scene gets fewer where no free place was found for one."""
    scene_overlap: float = 0.1
    """Largest share of a digit's box that the box of another may cover, 0 to 1."""
    scene_bold: int = 1
    """Pixels by which strokes are thickened on each side: thin ones make mask IoU hang on single pixels."""
    scene_train_count: int = 400
    scene_val_count: int = 100

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> EmbeddedConfig:
        """From ``data.options`` of a recipe.

        Raises:
            UserError: an option that there is none of, of another kind, or whose value makes no data set.
        """
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        known = [entry.name for entry in fields(cls)]
        for key in options:
            if key not in known:
                raise unknown("option", str(key), known, where="data.options")
        if said := wrong_kind(cls, options):
            raise UserError(f"data.options of the embedded set: {said}")
        try:
            config = cast("EmbeddedConfig", OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), options)))
        except OmegaConfBaseException as e:
            raise UserError(f"data.options of the embedded set: {str(e).splitlines()[0]} ({e.full_key})") from e
        config.check()
        return config

    def check(self) -> None:
        """Raises `UserError` naming the first field whose value makes no data set."""
        for name in ("background_brightness", "ink_brightness", "scene_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"embedded data set: {name} must lie in 0..1, not {getattr(self, name)}")
        for name in ("pretrain_count", "train_count", "val_count", "scene_train_count", "scene_val_count"):
            if not 1 <= getattr(self, name) <= 999_999:
                raise UserError(f"embedded data set: {name} must lie in 1..999999, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"embedded data set: seed must lie in 0..4294967295, not {self.seed}")
        if not 0 <= self.scene_bold <= 4:
            raise UserError(f"embedded data set: scene_bold must lie in 0..4, not {self.scene_bold}")
        self._check_pretraining()
        for name in ("image_size", "scene_size"):
            if not 16 <= getattr(self, name) <= 1024:
                raise UserError(f"embedded data set: {name} must lie in 16..1024, not {getattr(self, name)}")
        self._check_range("digit_size", 8, self.image_size, "image_size")
        self._check_range("scene_digit_size", 8, self.scene_size, "scene_size")
        self._check_range("scene_digits", 1, 100, "100")

    def settings(self) -> dict[str, Any]:
        """What the bytes of the data set hang on. Fields that came later are left out where they change nothing, so that
        data sets of before keep their folders."""
        values = asdict(self)
        if self.pretrain_pictures == "singles":
            for name in _OF_PIECES:
                del values[name]
        return values

    def _check_pretraining(self) -> None:
        if self.pretrain_pictures not in PRETRAIN_PICTURES:
            raise unknown(
                "kind of picture", self.pretrain_pictures, PRETRAIN_PICTURES, where="data.options.pretrain_pictures"
            )
        default = EmbeddedConfig()
        for name in _OF_PIECES if self.pretrain_pictures == "singles" else ():
            if getattr(self, name) != getattr(default, name):
                raise UserError(
                    f"embedded data set: {name} changes nothing with pretrain_pictures=singles: leave it out, or set "
                    "data.options.pretrain_pictures=pieces"
                )
        if not 16 <= self.pretrain_size <= 1024:
            raise UserError(f"embedded data set: pretrain_size must lie in 16..1024, not {self.pretrain_size}")
        self._check_range("pretrain_digit_size", 8, 2 * self.pretrain_size, "twice pretrain_size")
        self._check_range("pretrain_digits", 1, 100, "100")

    def _check_range(self, name: str, low: int, high: int, high_name: str) -> None:
        values = list(getattr(self, name))
        if len(values) != 2 or not low <= values[0] <= values[1] <= high:
            raise UserError(
                f"embedded data set: {name} must be [smallest, largest] with {low} <= smallest <= largest <= "
                f"{high_name}{'' if high_name == str(high) else f' ({high})'}, not {values}"
            )
