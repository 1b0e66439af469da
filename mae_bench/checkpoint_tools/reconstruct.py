"""`mae-bench reconstruct`: the paper's Figures 2 to 4 for any MAE with a decoder. Panels: `tasks.pretraining.reconstructions`.

A triplet an image, mask sampling and mask ratio; several stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError, unknown
from backbones.mae.masking import SAMPLINGS, grid_stride, visible_count
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.targets import Pixels as PixelTarget
from backbones.mae.targets import Target, TokenTarget, create_target
from mae_bench.checkpoint_tools.guess_target import guess_pixel_target
from mae_bench.checkpoint_tools.image_files import check_png, load_image, save_png
from mae_bench.common.console import say
from mae_bench.engine.seeding import derive
from tasks.contact_sheet import Sheet
from tasks.pretraining.reconstructions import COLUMNS, draw_one, triplet

PIXEL_TARGETS = ("pixels_norm", "pixels")


@dataclass(frozen=True)
class Row:
    """What one triplet of the sheet shows."""

    image: str
    sampling: str
    mask_ratio: float
    visible: int
    patches: int
    loss: float  # over the masked patches, in the target's space, as in pre-training

    @property
    def label(self) -> str:
        masked = f"{self.sampling} {100 * self.mask_ratio:g} %, {self.visible} of {self.patches} visible"
        return f"{Path(self.image).name}\n{masked}, loss {self.loss:.3f}"


def reconstruct(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    mask_ratios: Sequence[float] = (0.75,),
    samplings: Sequence[str] = ("random",),
    target: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Draws reconstructions of `images` into the PNG file `out`, and returns what its rows show.

    Masks depend on `seed` and on an image's place in the list only; with random sampling, what is visible at a higher mask
    ratio is so at a lower one. The file holds the rows and the checkpoint's sha256 as text, too (``mae_bench``).

    Args:
        checkpoint: a file with a decoder, or a pre-training's run directory.
        target: ``pixels_norm`` or ``pixels``, where the file does not say what it was trained for.
        img_size: pixels, height and width when two are given; default the checkpoint's.

    Raises:
        UserError: no decoder, a target without a way to pixels, an unreadable image, or a setting that cannot be.
    """
    out = Path(out)
    check_png(out)
    source = load_checkpoint(with_decoder(Path(checkpoint)))
    _check_decoder(source)
    model = source.masked_autoencoder(img_size=img_size).eval()
    choice = choose_target(source, model, target)
    model.decoder_target = choice.target
    if not choice.told:
        say(f"{source.path.name}: {choice.reason.splitlines()[0]}")
    settings = _settings(model, samplings, mask_ratios)
    size = (model.grid[0] * model.patch_size, model.grid[1] * model.patch_size)
    pixels = [load_image(Path(path), size) for path in images]
    title = f"{source.path.name}: {source.arch}, {size[0]} x {size[1]} px\n{choice.reason}"
    sheet = Sheet(COLUMNS, title, across=2 if len(images) * len(settings) > 2 else 1)
    rows = []
    for index, path in enumerate(images):
        for sampling, ratio in settings:
            masking = draw_one(sampling, model.grid, ratio, derive(seed, "reconstruct", index))
            panels, loss = triplet(model, pixels[index], masking, source.preprocessing)
            rows.append(Row(str(path), sampling, ratio, masking.ids_keep.shape[1], masking.ids_restore.shape[1], loss))
            sheet.add(rows[-1].label, panels)
    about = {"checkpoint": source.path.name, "sha256": source.sha256, "target": model.decoder_target.name, "seed": seed}
    save_png(sheet.draw(), out, {**about, "rows": [asdict(row) for row in rows]})
    return rows


@dataclass(frozen=True)
class Choice:
    """What the decoder was trained to predict, and how that is known."""

    target: Target
    reason: str  # for people
    told: bool = True  # by the file


def choose_target(source: Checkpoint, model: MaskedAutoencoder, asked: str | None = None) -> Choice:
    """What the decoder was trained to predict.

    A target with tensors of its own is in the file. Which kind of pixels is written in our files, Hugging Face's and official
    training checkpoints. Elsewhere `asked` says it, or the predictions show it
    (`mae_bench.checkpoint_tools.guess_target`), or the name of a
    published file does, or normalised ones are assumed.

    Raises:
        UserError: `asked` is unknown or cannot be, or the predictions cannot be turned into pixels.
    """
    target = model.decoder_target
    if asked is not None and asked not in PIXEL_TARGETS:
        raise unknown("target", asked, PIXEL_TARGETS, where="--target")
    if not isinstance(target, PixelTarget):
        if asked is not None:
            raise UserError(
                f"--target {asked}: {source.path} was trained to predict {target.name}: leave --target away"
            )
        if isinstance(target, TokenTarget) and not hasattr(target.tokenizer, "decode"):
            raise UserError(
                f"{source.path} predicts tokens, and their tokenizer has no decoder to pixels (a method `decode`): "
                "there is nothing to draw"
            )
        return Choice(target, f"target {target.name}, told by the file")
    recorded = {True: "pixels_norm", False: "pixels", None: None}[source.target_normalised]
    known, how = (
        (recorded, "the file") if recorded else guess_pixel_target(model, source.preprocessing.known(source.path))
    )
    if asked is not None:
        name, how = asked, "--target" + (f" (against {how})" if known not in (None, asked) else "")
    elif known is not None:
        name = known
    elif "visualize" in source.path.name:
        name, how = "pixels", "its name, which published files of plain pixels bear"
    else:
        name, how = "pixels_norm", f"{how}: assumed (if wrong: --target pixels)"
    note = "\neach patch is drawn with the original's mean and variance" if name == "pixels_norm" else ""
    return Choice(
        create_target(name, model.patch_size), f"target {name}, told by {how}{note}", told=recorded is not None
    )


def with_decoder(path: Path) -> Path:
    """A run directory's file that has the decoder; other paths as they are."""
    inside = path / "mae.safetensors"
    return inside if path.is_dir() and inside.is_file() else path


def _check_decoder(source: Checkpoint) -> None:
    if source.decoder:
        return
    beside = source.path.with_name("mae.safetensors")
    way_out = (
        f"give {beside}"
        if beside.is_file()
        else "published ones with it are mae_visualize_vit_*.pth and mae_pretrain_vit_*_full.pth"
    )
    raise UserError(f"{source.path} holds an encoder without the decoder that a reconstruction needs: {way_out}")


def _settings(
    model: MaskedAutoencoder, samplings: Sequence[str], mask_ratios: Sequence[float]
) -> list[tuple[str, float]]:
    """Every sampling with every ratio, less those that a grid cannot have; at least one must be left."""
    patches = model.grid[0] * model.grid[1]
    for ratio in mask_ratios:
        if not 0 < ratio < 1 or not 0 < visible_count(patches, ratio) < patches:
            raise UserError(f"--mask-ratio {ratio:g}: give a share that leaves some of {patches} patches, but not all")
    possible: list[tuple[str, float]] = []
    refused: list[tuple[str, float]] = []
    for sampling in dict.fromkeys(samplings):
        if sampling not in SAMPLINGS:
            raise unknown("sampling", sampling, SAMPLINGS, where="--sampling")
        for ratio in dict.fromkeys(mask_ratios):
            fits = sampling != "grid" or _grid_fits(model.grid, ratio)
            (possible if fits else refused).append((sampling, ratio))
    ratios = ", ".join(f"{ratio:g}" for _, ratio in refused)
    line = (
        f"--sampling grid keeps one patch of each k x k, k a divisor of {model.grid[0]} and {model.grid[1]}: "
        f"no --mask-ratio {ratios} (0.75 is 2 x 2, 0.8889 is 3 x 3, 0.9375 is 4 x 4)"
    )
    if not possible:
        raise UserError(line if refused else "give at least one --sampling and one --mask-ratio")
    if refused:
        say(f"left out: {line}")
    return possible


def _grid_fits(grid: tuple[int, int], ratio: float) -> bool:
    try:
        grid_stride(grid, ratio)
    except UserError:
        return False
    return True
