"""The verbs that take a checkpoint file: `inspect`, `convert`, `extract`, `reconstruct`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backbones.errors import UserError
from mae_bench.cli.common import Arch, Json, print_json, print_lines

Checkpoint = Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint file, or a pre-training's run directory.")]
ImgSize = Annotated[
    str | None,
    typer.Option("--img-size", metavar="N|HxW", help="Pixels; default the checkpoint's. Positions are resampled."),
]


def inspect(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT",
            help="File, folder (Hugging Face, timm, a run's), timm:NAME, hf:OWNER/NAME or module:package.file:function.",
        ),
    ],
    arch: Arch = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Also: what explains the patch tokens' variance on these images."),
    ] = None,
    img_size: ImgSize = None,
    as_json: Json = False,
) -> None:
    """Say what a checkpoint is, whether it is a published file, and which tasks it can start."""
    from mae_bench.checkpoint_tools.inspect import inspect as run
    from mae_bench.checkpoint_tools.inspect import lines
    from mae_bench.recipes.options import with_arch

    if img_size is not None and images is None:
        raise UserError("--img-size goes with --images: a card has the checkpoint's own size")
    checkpoint = with_arch(checkpoint, arch)
    card = run(checkpoint)
    rows = lines(card)
    if images is not None:
        from mae_bench.checkpoint_tools import variance

        card["variance"] = variance.token_variance(checkpoint, images, img_size=_img_size(img_size))
        rows += variance.lines(card["variance"])
    if as_json:
        print_json(card)
        return
    width = max(len(heading) for heading, _ in rows)
    print_lines(f"{heading.ljust(width)}  {text}" for heading, text in rows)


def convert(
    checkpoint: Checkpoint,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="timm|mae|hf|vitdet", help="timm's, the official code's, Hugging Face's, detectron2's."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="PATH", help="A .pth or .safetensors file; for hf a folder; for vitdet .pth or .pkl."
        ),
    ],
) -> None:
    """Write a checkpoint in another project's layout."""
    from backbones.checkpoints.checkpoint import load_checkpoint
    from backbones.checkpoints.write_layouts import save_as

    print_lines([str(save_as(load_checkpoint(checkpoint), out, to))])


def extract(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CKPT", help="File, folder, timm:NAME, hf:OWNER/NAME or module:package.file:function."),
    ],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder of images, class folders, or a tar.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to: a .npy or .safetensors file.")],
    features: Annotated[str, typer.Option("--features", metavar="cls,mean,patch", help="Which features.")] = "cls",
    layers: Annotated[
        str, typer.Option("--layers", metavar="L1,L2", help="Blocks, from 0, or from the end: -1 is the last.")
    ] = "-1",
    arch: Arch = None,
    norm: Annotated[
        str, typer.Option("--norm", metavar="last|all|none", help="Layers that the encoder's final norm is applied to.")
    ] = "last",
    img_size: ImgSize = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images at a time.")] = 32,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes that read images.")] = 2,
    precision: Annotated[str, typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of the encoder.")] = "fp32",
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave unreadable images out.")] = False,
    as_json: Json = False,
) -> None:
    """Write features of every image of a folder, and FILE.json with names, labels and where they come from."""
    from mae_bench.checkpoint_tools.extract import extract as run
    from mae_bench.checkpoint_tools.extract import sidecar
    from mae_bench.recipes.options import with_arch

    about = run(
        with_arch(checkpoint, arch),
        data,
        out,
        features=_words(features),
        layers=_layers(layers),
        norm=norm,
        img_size=_img_size(img_size),
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        skip_broken=skip_broken,
    )
    if as_json:
        rows = ("names", "labels", "classes")
        print_json({"sidecar": str(sidecar(out)), **{k: v for k, v in about.items() if k not in rows}})
        return
    for name, array in about["arrays"].items():
        shape = " x ".join(map(str, array["shape"]))
        note = "final norm applied" if array["norm"] else "before the final norm"
        print_lines([f"{out.parent / array['file']}: {name}, {shape}, {note}"])
    print_lines([f"{sidecar(out)}: names, labels, checkpoint"])


def reconstruct(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="The picture.")],
    mask_ratio: Annotated[
        list[str] | None, typer.Option("--mask-ratio", metavar="R", help="Default 0.75 (repeatable, or 0.5,0.75).")
    ] = None,
    sampling: Annotated[
        list[str] | None,
        typer.Option("--sampling", metavar="random|block|grid", help="Default random (repeatable, or random,grid)."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="pixels|pixels_norm", help="What the decoder predicts, if the file is silent."
        ),
    ] = None,
    img_size: ImgSize = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the masks.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw images masked, reconstructed and as they are, for several mask ratios and samplings."""
    from mae_bench.checkpoint_tools.reconstruct import reconstruct as run

    rows = run(
        checkpoint,
        images,
        out,
        mask_ratios=_ratios(mask_ratio or ["0.75"]),
        samplings=_words(",".join(sampling or ["random"])),
        target=target,
        img_size=_img_size(img_size),
        seed=seed,
    )
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_lines(
        f"{row.image}  {row.sampling} {100 * row.mask_ratio:g} %  {row.visible} of {row.patches} visible  "
        f"loss {row.loss:.4f}"
        for row in rows
    )
    print_lines([f"picture: {out}"])


def _ratios(texts: list[str]) -> list[float]:
    try:
        return [float(word) for word in _words(",".join(texts))]
    except ValueError:
        raise UserError(f"--mask-ratio {','.join(texts)}: give shares between 0 and 1, such as 0.75") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _layers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise UserError(f"--layers {text}: give whole numbers, such as 11 or -1,-4") from None


def _img_size(text: str | None) -> tuple[int, int] | None:
    """``224`` or ``224x320`` (height, width)."""
    if text is None:
        return None
    sides = text.lower().split("x")
    try:
        height, width = (int(sides[0]), int(sides[-1])) if len(sides) <= 2 else (0, 0)
    except ValueError:
        height = width = 0
    if height < 1 or width < 1:
        raise UserError(f"--img-size {text}: give pixels, such as 224 or 224x320 (height, width)")
    return height, width
