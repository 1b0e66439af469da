"""Verbs of the command line about data sets on disk: parsing and printing only. `cli` registers them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

PROBLEMS = 1

app = typer.Typer(no_args_is_help=True, help="Look at data sets on disk.")


@app.callback()
def _group() -> None:
    """Keeps `verify` a word of its own, though it is the only one."""


@app.command()
def verify(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="imagenet, inat2018, places365, imagenet_c, … or your own.")
    ],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where it lies, as for --data NAME=DIR.")],
    full: Annotated[bool, typer.Option("--full", help="Decode every image, not a sample.")] = False,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Images of each split to decode.")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a data set with the published one: counts, unreadable files, labels, absent classes.

    Exit codes: 0 nothing wrong, 1 problems found, 2 could not look.
    """
    from tasks.datasets.verify import verify as run
    from tasks.progress import progress

    bars: list[Any] = []

    def begin(total: int) -> Any:
        bars.append(progress("decoding", total))
        return bars[0].__enter__()

    try:
        report = run(name, folder, full=full, sample=sample, progress=begin)
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)
    if as_json:
        print(json.dumps({**asdict(report), "problems": report.problems}, indent=2))
    else:
        for line in lines(report):
            print(line)
    if report.problems:
        raise typer.Exit(PROBLEMS)


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
        told.append(f"{' ' * width}  {few:,} to {many:,} images a class{sizes}")
        told += [f"{' ' * width}  {line}" for line in split.books]
        told += [f"{' ' * width}  note: {note}" for note in split.notes]
    if all(split.published_images is None for split in report.splits):
        told.append(f"no published counts of {report.name} to compare with")
    problems = [f"problem: {problem}" for problem in report.problems]
    return told + (problems or ["nothing wrong" if report.full else "nothing wrong (--full decodes every image)"])


def _of(published: int | None) -> str:
    return "" if published is None else f" (published: {published:,})"
