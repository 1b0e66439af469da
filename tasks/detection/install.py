"""Puts ``detectron2`` in place: ``python -m tasks.detection.install``. The models built from it are not here.

Upstream publishes no wheel on the package index. Unless the user has built one, we take the wheel of
``sal-detectron2``: upstream of 2024-04 with three small edits, Apache-2.0. Its tag says CPython 3.10, for the
sake of a compiled ``_C`` that ViTDet does not need; all else is pure Python and runs on any. So the wheel is
unpacked past its tag into a folder of its own, which a ``.pth`` file puts on the path; ``_C``, built against an
old torch, is left out. Standard library only.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from backbones.atomic import write_text
from backbones.errors import UserError

REQUIREMENT = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
FOLDER = "_detectron2"  # in site-packages, beside FOLDER.pth


def main() -> int:
    """Keep a ``detectron2`` that is importable, or install one, and say which; on failure 2 and one line."""
    try:
        found = importable()
        if found:
            print(f"detectron2: kept the one in {found}")
        else:
            print(f"detectron2: installed {REQUIREMENT} in {install(Path(sysconfig.get_path('purelib')))}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def importable() -> Path | None:
    """Folder of the ``detectron2`` that ``import`` finds, whoever put it there."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("detectron2")
    return Path(spec.origin).parent if spec and spec.origin else None


def install(site_packages: Path) -> Path:
    """Download, unpack and put on the path; gives the folder. A broken-off call leaves nothing in the way.

    Raises:
        UserError: no pip, no network, another file than the pinned one, or no permission to write.
    """
    folder = site_packages / FOLDER
    try:
        if not (folder / "detectron2" / "__init__.py").is_file():
            _unpack(folder)
        write_text(site_packages / f"{FOLDER}.pth", f"{FOLDER}\n")
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write to {site_packages} ({why}): use a virtual environment") from error
    return folder


def _unpack(folder: Path) -> None:
    """The wheel's ``detectron2`` to `folder`, which either is complete or does not exist."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        unpacked = scratch / "unpacked"
        _download(unpacked, scratch / "requirement.txt")
        _tidy(unpacked)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tidy(unpacked: Path) -> None:
    shutil.rmtree(unpacked / "tools", ignore_errors=True)  # stray package with too general a name
    for binary in (unpacked / "detectron2").glob("_C*.so"):
        binary.unlink()
    # Licence and provenance stay, but not as a distribution: `pip check` would fail on its numpy<2 and black.
    for info in unpacked.glob("*.dist-info"):
        info.rename(unpacked / info.name.replace(".dist-info", "-info"))


def _download(target: Path, requirement: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise UserError("installing detectron2 needs pip: run `python -m ensurepip`, then this again")
    requirement.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.10", "--require-hashes"]
    options += ["--quiet", "--disable-pip-version-check", f"--target={target}", f"-r{requirement}"]
    # Constraints without hashes, and a default of --user, contradict the options above.
    environment = {k: v for k, v in os.environ.items() if k not in ("PIP_CONSTRAINT", "PIP_USER")}
    command = [sys.executable, "-m", "pip", "install", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise UserError(f"could not install {REQUIREMENT}: {_reason(done.stderr)}")


def _reason(stderr: str) -> str:
    if "DO NOT MATCH THE HASHES" in stderr:
        return f"the index served another file than the pinned one (sha256 {SHA256}); try another index"
    errors = [line[6:].strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    return f"{errors[-1] if errors else 'pip failed'}; check the network and the index, then run this again"


if __name__ == "__main__":
    sys.exit(main())
