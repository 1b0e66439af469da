"""The verb `setup`: what pip alone cannot install (`tasks.detection.install`)."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Annotated

import typer

from backbones.errors import unknown
from mae_bench.cli.common import print_lines

_KNOWN = ("detectron2",)


def setup(what: Annotated[str, typer.Argument(metavar="|".join(_KNOWN), help="What to install.")]) -> None:
    """Install what no package index offers as it is: detectron2, for detection. One that is there is kept."""
    from mae_bench.common.console import say
    from tasks.detection import install

    if what not in _KNOWN:
        raise unknown("package to set up", what, _KNOWN)
    found = install.importable()
    if found is not None:
        print_lines([f"detectron2: kept the one in {found}"])
        return
    site_packages = Path(sysconfig.get_path("purelib"))
    say(f"detectron2: downloading {install.REQUIREMENT} (sha256 {install.SHA256[:12]}…) with pip to {site_packages}")
    print_lines([f"detectron2: installed {install.REQUIREMENT} in {install.install(site_packages)}"])
