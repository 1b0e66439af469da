"""Encoders that come with the package, by name: ``--checkpoint embedded``, ``load_checkpoint("embedded")``.

Beside ``NAME.safetensors`` lie its model card (``NAME.md``), the record of its pre-training (``NAME.record.json``, which has
command, seed and sha256) and that run's log (``NAME.log.jsonl``). `make encoder` makes them anew.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from backbones.errors import UserError, unknown

FOLDER = Path(__file__).parent
METHOD = "MAE, shipped"  # their row of the tables: not that of the MAE which a run has pre-trained itself


def names() -> list[str]:
    """Names that `find` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find(source: str) -> Path | None:
    """The file of the shipped encoder of that name; None where `source` is no such name.

    Raises:
        UserError: a file or folder here has the name, too; or no file has it, and it is a misspelt one.
    """
    if source not in names():
        if difflib.get_close_matches(source, names(), cutoff=0.8) and not Path(source).exists():
            raise unknown("checkpoint", source, names())
        return None
    if Path(source).exists():
        raise UserError(
            f"{source} is the name of a shipped encoder and of a file here: give ./{source} for the file, or rename it"
        )
    return FOLDER / f"{source}.safetensors"


def record(name: str) -> dict[str, Any]:
    """The record of the pre-training that gave a shipped encoder, as it was written."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.record.json").read_text("utf-8"))
    return content


def card(name: str) -> str:
    """A shipped encoder's model card, in markdown."""
    return (FOLDER / f"{name}.md").read_text("utf-8")
