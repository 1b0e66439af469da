"""The verb `data`: data sets on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from backbones.errors import UserError
from mae_bench.cli.common import Json, Overrides, Verbs, add_verb, print_json, print_lines
from tasks.datasets.suffixes import is_hidden

PROBLEMS = 1

app = typer.Typer(name="data", cls=Verbs, no_args_is_help=True, help="Look at data sets on disk.")


@app.callback()
def _group() -> None:
    """Keeps `verify` a subcommand although it is the only one."""


def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="imagenet, inat2018, places365, coco, lvis, ade20k, … or your own.")
    ],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where it lies, as for --data NAME=DIR.")],
    full: Annotated[bool, typer.Option("--full", help="Decode every image, not a sample.")] = False,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Images of each split to decode.")] = 1000,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="RECIPE",
            help="Look as this recipe reads it; default: by NAME, else by what lies in DIR.",
        ),
    ] = None,
    set_: Overrides = None,
    as_json: Json = False,
) -> None:
    """Look at a data set whole: what is found, used and left out; counts, unreadable files, labels, absent classes.

    Exit codes: 0 nothing wrong, 1 problems found, 2 could not look.
    """
    from tasks.progress import progress

    bars: list[Any] = []

    def begin(total: int) -> Any:
        bars.append(progress("decoding", total))
        return bars[0].__enter__()

    look = _reader(name, folder, recipe, set_ or [])
    if sample < 0:
        raise UserError(f"--sample {sample}: give 0 or more")
    try:
        report = look(folder, full=full, sample=sample, progress=begin)
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)
    if as_json:
        print_json({**asdict(report), "problems": report.problems})
    else:
        print_lines(lines(report))
    if report.problems:
        raise typer.Exit(PROBLEMS)


add_verb(app, verify, name="verify", example="imagenet /data/imagenet", slow=True)


# Whose folders, classes and options are meant where nobody says.
_RECIPES = {
    "coco": "detection/vit_base_patch16_coco",
    "lvis": "lvis/vit_base_patch16_lvis",
    "ade20k": "segmentation/vit_base_patch16_ade20k",
}


def _reader(name: str, folder: str, recipe_name: str | None, overrides: list[str]) -> Callable[..., Any]:
    """What looks at a data set: the reader of the task whose recipe reads it."""
    from mae_bench.recipes.load import load_recipe
    from tasks import check_recipe, load, require, spec

    recipe_name = recipe_name or _RECIPES.get(name) or _RECIPES.get(_kind(Path(folder).expanduser()))
    recipe: Any = load_recipe(
        recipe_name or "finetune/vit_base_patch16_imagenet", [f"data.name={json.dumps(name)}", *overrides]
    )
    check_recipe(recipe)
    verify = spec(recipe.task).verify
    if verify is None:
        raise UserError(
            f"data verify {name}: task {recipe.task} has nothing that looks at its data: --recipe names another"
        )
    require(recipe.task)
    return partial(load(verify), recipe)


def _kind(root: Path) -> str:
    """The published set that a folder is laid out like, where that is one of objects or maps."""
    coco = ("annotations/instances_*.json", "*/_annotations.coco.json", "*/labels.json")
    for name, patterns in (("coco", coco), ("lvis", ("annotations/lvis_*.json",)), ("coco", ("annotations/*.json",))):
        if any(not is_hidden(path.name) for pattern in patterns for path in root.glob(pattern)):
            return name
    inside = root / "ADEChallengeData2016"
    maps = any((base / "images").is_dir() and (base / "annotations").is_dir() for base in (root, inside))
    return "ade20k" if maps else ""


def lines(report: Any) -> list[str]:
    """What a person reads of a `tasks.datasets.verify.Report`: a line a split, then one a problem."""
    width = max(len(split.split) for split in report.splits)
    told = []
    for split in report.splits:
        if not split.images:
            told.append(f"{split.split.ljust(width)}  could not be read")
            told += [f"{' ' * width}  {line}" for line in split.books]
            continue
        images = f"{split.images:,} images" + _of(split.published_images)
        classes = f"{split.classes:,} classes" + _of(split.published_classes)
        low, high = split.labels
        told.append(
            f"{split.split.ljust(width)}  {images}, {classes}, labels {low} to {high}, {split.decoded:,} decoded"
        )
        few, many = split.balance
        sizes = f"; {split.sizes}" if split.sizes else ""
        told.append(f"{' ' * width}  {few:,} to {many:,} {split.unit} a class{sizes}")
        told += [f"{' ' * width}  {line}" for line in split.books]
        told += [f"{' ' * width}  note: {note}" for note in split.notes]
    if all(split.published_images is None for split in report.splits):
        told.append(f"no published counts of {report.name} to compare with")
    problems = [f"problem: {problem}" for problem in report.problems]
    return told + (problems or ["nothing wrong" if report.full else "nothing wrong (--full decodes every image)"])


def _of(published: int | None) -> str:
    return "" if published is None else f" (published: {published:,})"
