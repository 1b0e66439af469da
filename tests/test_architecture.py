"""Imports go one way: mae_bench -> tasks -> backbones, within each of them down its floors, no task into another."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Each package's rooms (folders, or files beside them) from the top floor down: a room may import those of lower floors.
FLOORS: dict[str, list[list[str]]] = {
    "mae_bench": [
        ["__main__"],
        ["cli", "__init__"],
        ["api"],
        ["launchers", "check", "report", "speed", "rehearsal"],
        ["jobs", "checkpoint_tools"],
        ["tables", "engine"],
        ["records"],
        ["recipes"],
        ["common"],
    ],
    "tasks": [
        ["classification", "probing", "detection", "segmentation", "pretraining"],
        ["features"],
        ["__init__", "base", "contact_sheet", "datasets", "kinds", "progress", "recipe", "spec", "suitability"],
    ],
    "backbones": [
        ["checkpoints"],
        ["encoders", "mae"],
        ["vit", "files"],
        ["__init__", "atomic", "errors", "plain_files"],
    ],
}
# Rooms of one floor that may import one another: small modules that make up the contract between tasks and the engine.
OPEN = {("tasks", 2), ("backbones", 3)}
# Folders with an order of their own, as FLOORS: the files and folders in them.
INNER: dict[str, list[list[str]]] = {
    "mae_bench/tables": [["__init__"], ["own"], ["fill", "formats"], ["of_recipe"], ["definitions"], ["table"]],
}
PACKAGES = tuple(FLOORS)  # from the top down
EXTRAS = ["detectron2", "pycocotools", "fvcore", "mmseg", "mmcv", "mmengine", "cv2", "pyarrow", "submitit"]
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Dotted names that a file imports anywhere, relative ones resolved.

    ``from tasks import detection`` gives ``tasks`` and ``tasks.detection``: the syntax does not say which it is.
    """
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(path: Path, folder: Path) -> str:
    """The folder below `folder`, or the file beside the folders, that `path` lies in."""
    return path.relative_to(folder).parts[0].removesuffix(".py")


def room_of_name(name: str, folder: str) -> str | None:
    """The room of a dotted name below `folder` ("mae_bench/tables"); None where it lies elsewhere."""
    parts, inside = name.split("."), folder.split("/")
    if parts[: len(inside)] != inside:
        return None
    rest = parts[len(inside) :]
    known = {each for floor in {**FLOORS, **INNER}[folder] for each in floor}
    return rest[0] if rest and rest[0] in known else "__init__"


def wrong_way(path: Path, root: Path = ROOT) -> set[str]:
    """Names that a file imports from a package above its own."""
    above = PACKAGES[: PACKAGES.index(path.relative_to(root).parts[0])]
    return {name for name in imports(path, root) if name.split(".")[0] in above}


def upwards(path: Path, folder: str, floors: list[list[str]], root: Path = ROOT) -> set[str]:
    """Names that a file below `folder` imports from a room of its own floor or of one above it."""
    floor_of = {each: number for number, floor in enumerate(floors) for each in floor}
    here = room(path, root / folder)
    found = set()
    for name in imports(path, root):
        there = room_of_name(name, folder)
        if there is None or there == here or (there == "__init__" and name.count(".") <= folder.count("/")):
            continue  # `from mae_bench import tables` gives the folder's own name beside the one that is meant
        same_floor = floor_of[there] == floor_of[here] and (folder, floor_of[here]) in OPEN
        if floor_of[there] <= floor_of[here] and not same_floor:
            found.add(name)
    return found


def test_packages_import_one_way() -> None:
    assert {str(path.relative_to(ROOT)): wrong for path in FILES if (wrong := wrong_way(path))} == {}


@pytest.mark.parametrize("folder", [*FLOORS, *INNER])
def test_rooms_import_the_floors_below_them(folder: str) -> None:
    floors = {**FLOORS, **INNER}[folder]
    files = [path for path in FILES if path.is_relative_to(ROOT / folder)]
    unknown = {room(path, ROOT / folder) for path in files} - {each for floor in floors for each in floor}
    assert unknown == set(), "a new room: give it its floor in FLOORS and a line in CONTRIBUTING.md"
    assert {str(p.relative_to(ROOT)): wrong for p in files if (wrong := upwards(p, folder, floors))} == {}


def test_the_rules_see_every_way_of_writing_an_import(tmp_path: Path) -> None:
    for folder in ("one", "two", "three"):
        (tmp_path / "tasks" / folder).mkdir(parents=True)
    bad = tmp_path / "tasks" / "one" / "bad.py"
    bad.write_text(
        "def f():\n    import mae_bench.cli\n\nfrom .. import two\nfrom tasks.three.data import x\nimport tasks.base\n"
    )
    assert wrong_way(bad, tmp_path) == {"mae_bench.cli"}
    floors = [["one", "two", "three"], ["__init__", "base"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FLOORS, "tasks", floors)
        assert upwards(bad, "tasks", floors, tmp_path) == {"tasks.two", "tasks.three.data", "tasks.three.data.x"}


def test_every_package_that_we_import_is_declared() -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in requires("mae-bench") or []}
    installed = defaultdict(set)  # `packages_distributions` of Python 3.10 knows those with a top_level.txt alone
    for distribution in distributions():
        name = canonicalize_name(distribution.name)
        for module in {file.parts[0].removesuffix(".py") for file in distribution.files or []}:
            installed[module].add(name)
    modules = {name.split(".")[0] for path in FILES for name in imports(path)}
    third_party = modules - sys.stdlib_module_names - set(PACKAGES) - {"detectron2"}  # tasks/detection/install.py
    undeclared = {module for module in third_party if not installed[module] & declared}
    # onedl-mmcv asks for opencv-python itself; declaring it here as well would bring it to those who hold another.
    assert undeclared <= {"cv2"}


@pytest.mark.slow
def test_the_base_install_imports_without_any_extra() -> None:
    block = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None  # makes `import name` fail
import mae_bench, mae_bench.cli.main, tasks
for task in tasks.registry():
    tasks.recipe_schema(task)
"""
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
