"""``python -m tasks.datasets.embedded --out sheet.png``: makes the embedded data set, and a picture of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from backbones.errors import UserError
from tasks.datasets.embedded.cache import prepare
from tasks.datasets.embedded.config import EmbeddedConfig
from tasks.datasets.embedded.sheet import contact_sheet


def main() -> int:
    """Exit code 0, or 2 where the data set could not be made."""
    parser = argparse.ArgumentParser(prog="python -m tasks.datasets.embedded", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file that gets the contact sheet (.png)")
    parser.add_argument("--split", choices=["train", "val"], default="val")
    parser.add_argument("--cache", type=Path, help="cache folder (default: $MAE_BENCH_CACHE, then XDG)")
    arguments = parser.parse_args()
    try:
        folder = prepare(EmbeddedConfig(), arguments.cache)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    contact_sheet(folder, arguments.split).save(arguments.out)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
