"""Files of protocols (``configs/PROTOCOL.yaml``): what a row of theirs is made of, before any schema looks at it.

A file has these keys, all but one of `defaults` and `base` optional:
    base        another protocol, whose defaults, data and arch come before this file's own
    title       what its recipes are called, before architecture and data set
    defaults    values of every recipe
    data        by data set: values on it. `base`: another entry, whose values come first. `arch`: the one architecture that the
                values were written for, sizes and all (small sets); entries of `arch` do not apply, and for other encoders
                `any_encoder` fits numbers of blocks and image sizes. `size: native`: those take the size that they know
    other_data  the entry that data sets without one take
    arch        by architecture: values that go with its size; `base` as above. Encoders without an entry take the nearest
    rows        the recipes ``PROTOCOL/ROW``: `arch` and `data` (an entry each) or `base` (another recipe), and own values

A later one wins: defaults, arch, data, row; those of a protocol's base before its own. `title` of entries are parts of a
recipe's, `published` is a key of ``published.yaml`` or a text (`published.cite`); neither it nor `cost` passes to what
stands on the recipe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from backbones.errors import UserError, unknown
from mae_bench.common.yaml_file import read_yaml

_PACKAGE = Path(__file__).parents[1]
INCLUDE = "MAE_BENCH_INCLUDE"
"""Environment variable: folders of the user's protocol files and suites, as ``--include`` adds them."""

_KEYS = ("base", "title", "other_data", "defaults", "data", "arch", "rows")
_OF_ENTRIES = ("base", "title", "arch", "size")  # keys of an entry that are no values of a recipe


@dataclass(frozen=True)
class Layer:
    """Values of a recipe as nested mappings, and the place that they come from."""

    values: Mapping[str, Any]
    where: str


@dataclass
class ProtocolFile:
    """One file, or a shipped one with what a file of the same name in an included folder adds."""

    name: str
    path: Path
    base: str | None = None
    title: str = ""
    other_data: str | None = None
    defaults: Layer | None = None
    data: dict[str, Layer] = field(default_factory=dict)
    arch: dict[str, Layer] = field(default_factory=dict)
    rows: dict[str, Layer] = field(default_factory=dict)
    included: set[str] = field(default_factory=set)  # rows that are not in configs/


def config_root() -> Path:
    """``configs/``: inside the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def folders() -> list[Path]:
    """``configs/`` and the included folders."""
    return [config_root(), *(Path(folder) for folder in os.environ.get(INCLUDE, "").split(os.pathsep) if folder)]


def included() -> list[Path]:
    """The included folders alone."""
    return folders()[1:]


def include(given: Sequence[str | Path]) -> None:
    """Adds folders of protocol files (and ``suites/``), for this process and those that it starts.

    Raises:
        UserError: no folder, or its files clash with what is there.
    """
    if not given:
        return
    known = folders()
    for folder in given:
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise UserError(f"--include {folder}: no such folder")
        if path not in known:
            known.append(path)
    os.environ[INCLUDE] = os.pathsep.join(map(str, known[1:]))
    protocols()


def protocols() -> dict[str, ProtocolFile]:
    """Every protocol by name; files are read once."""
    return _read_all(tuple(folders()))


@lru_cache(maxsize=8)
def _read_all(where: tuple[Path, ...]) -> dict[str, ProtocolFile]:
    found: dict[str, ProtocolFile] = {}
    for folder in where:
        if not folder.is_dir():
            raise UserError(f"{INCLUDE}: {folder}: no such folder")
        for path in sorted(folder.glob("*.yaml")):
            file = _read(path)
            if file.name in found:
                _add(found[file.name], file)
            else:
                found[file.name] = file
    for name in found:
        _chain(found, name)
    return found


def _read(path: Path) -> ProtocolFile:
    content = read_yaml(path)
    for key in content:
        if key not in _KEYS:
            raise unknown("key", str(key), _KEYS, where=str(path))
    shown = path.relative_to(config_root().parent) if path.is_relative_to(config_root()) else path

    def section(key: str) -> dict[str, Layer]:
        entries = content.get(key) or {}
        if not isinstance(entries, dict) or not all(isinstance(e, dict | None) for e in entries.values()):
            raise UserError(f"{path}: {key}: give a mapping of names to values")
        return {str(name): Layer(values or {}, f"{shown}: {key}.{name}") for name, values in entries.items()}

    for key in ("base", "title", "other_data"):
        if not isinstance(content.get(key, ""), str):
            raise UserError(f"{path}: {key}: give a text")
    defaults = content.get("defaults")
    if not isinstance(defaults, dict | None):
        raise UserError(f"{path}: defaults: give a mapping of keys to values")
    return ProtocolFile(
        path.stem,
        path,
        content.get("base"),
        content.get("title", ""),
        content.get("other_data"),
        Layer(defaults, f"{shown}: defaults") if defaults else None,
        section("data"),
        section("arch"),
        rows := section("rows"),
        included=set() if path.is_relative_to(config_root()) else set(rows),
    )


def _add(there: ProtocolFile, more: ProtocolFile) -> None:
    """An included file of a known protocol adds entries and rows; what is there stays as it is."""
    if more.base or more.title or more.other_data or more.defaults:
        raise UserError(
            f"{more.path}: protocol {there.name} is that of {there.path}: a file of its name may add data, arch and rows; for "
            f"other defaults give it another name and base: {there.name}"
        )
    for key in ("data", "arch", "rows"):
        mine, theirs = getattr(there, key), getattr(more, key)
        for name in theirs:
            if name in mine:
                raise UserError(f"{theirs[name].where}: {mine[name].where} is there already: give it another name")
        mine.update(theirs)
    there.included |= more.included


def chain(protocol: str) -> list[ProtocolFile]:
    """The file of a protocol after those that it stands on."""
    return _chain(protocols(), protocol)


def _chain(found: Mapping[str, ProtocolFile], name: str) -> list[ProtocolFile]:
    if name not in found:
        raise unknown("protocol", name, found)
    files = [found[name]]
    while (base := files[0].base) is not None:
        if base not in found:
            raise unknown("protocol", base, found, where=f"{files[0].path}: base")
        if found[base] in files:
            raise UserError(f"{files[0].path}: base: leads back to itself")
        files.insert(0, found[base])
    return files


def row_names() -> list[str]:
    """Names of all rows, in the order of the files."""
    return [f"{file.name}/{row}" for file in protocols().values() for row in file.rows]


def matching(pattern: str, *, included: bool = True) -> list[str]:
    """Rows whose names fit a pattern such as ``robustness/*_448``, in the order of their file; `included` ones, too, or not."""
    names = [
        f"{file.name}/{row}"
        for file in protocols().values()
        for row in file.rows
        if included or row not in file.included
    ]
    return [name for name in names if fnmatchcase(name, pattern)]


def find_row(name: str) -> Layer | None:
    """The row of a name, if there is one."""
    protocol, _, row = name.partition("/")
    file = protocols().get(protocol)
    return file.rows.get(row) if file else None


def combination(
    protocol: str, data: str, arch: str | None, named: Layer, called: Mapping[str, str] | None = None
) -> list[Layer]:
    """Layers of a protocol on a data set with an architecture (entries of the file), without a row's own values.

    Args:
        arch: entry of `arch`, or None where the data set's entry is for one architecture.
        named: a layer that goes under all others: the names of protocol, data set and architecture.
        called: what the title has for `arch` and `data` in place of what their entries say.
    """
    files = chain(protocol)
    entries = {
        "arch": [] if arch is None else _line(files, "arch", arch, named.where),
        "data": _line(files, "data", data, named.where),
    }
    titles = {"defaults": "", "arch": "", "data": ""}
    layers = [named]
    for file in files:
        titles["defaults"] = file.title or titles["defaults"]
        if file.defaults is not None:
            layers.append(file.defaults)
        for section, names in entries.items():
            there: dict[str, Layer] = getattr(file, section)
            for entry in (there[n] for n in names if n in there):
                titles[section] = entry.values.get("title", titles[section])
                values = {k: v for k, v in entry.values.items() if k not in _OF_ENTRIES}
                layers.append(Layer(values, entry.where))
    title = ", ".join(filter(None, (titles | dict(called or {})).values()))
    return [*layers, Layer({"title": title}, "titles of protocol, architecture and data set")]


def _line(files: Sequence[ProtocolFile], section: str, name: str, where: str) -> list[str]:
    """An entry's name after those that it stands on (`base`)."""
    names = [name]
    while True:
        holders = [f for f in files if names[0] in getattr(f, section)]
        if not holders:
            known = {n for f in files for n in getattr(f, section)}
            raise unknown(section, names[0], known, where=where)
        bases = [b for f in holders if (b := getattr(f, section)[names[0]].values.get("base")) is not None]
        if not bases:
            return names
        if bases[-1] in names:
            raise UserError(f"{getattr(holders[-1], section)[names[0]].where}: base: leads back to itself")
        names.insert(0, bases[-1])


def entry_says(protocol: str, data: str, key: str) -> Any:
    """What a data set's entry, or one that it stands on, says under a key that is no value of recipes (`arch`, `size`)."""
    files = chain(protocol)
    said = [
        file.data[name].values[key]
        for file in files
        for name in _line(files, "data", data, protocol)
        if name in file.data and key in file.data[name].values
    ]
    return said[-1] if said else None


def architectures(protocol: str) -> list[str]:
    """Size classes of a protocol: entries of `arch` that stand on no other."""
    entries = {name: layer for file in chain(protocol) for name, layer in file.arch.items()}
    return [name for name, layer in entries.items() if "base" not in layer.values]


def data_name(protocol: str, data: str) -> str:
    """What recipes of a data set's entry call the set, where no entry says ``data.name``: the one that it stands on."""
    return _line(chain(protocol), "data", data, f"protocol {protocol}")[0]


def data_sets(protocol: str) -> list[str]:
    """Data sets that a protocol has an entry for."""
    return list(dict.fromkeys(name for file in chain(protocol) for name in file.data))


def other_data(protocol: str) -> str | None:
    """The entry that a data set without one takes."""
    said = [file.other_data for file in chain(protocol) if file.other_data]
    return said[-1] if said else None


def row_layers(name: str) -> list[Layer]:
    """Layers of a row that names `arch` and `data`, its own values last."""
    protocol, _, short = name.partition("/")
    row = protocols()[protocol].rows[short]
    arch, data = row.values.get("arch"), row.values.get("data")
    if not isinstance(arch, str) or not isinstance(data, str):
        raise UserError(f"{row.where}: give arch and data, each an entry of the file, or base: another recipe")
    for_one = entry_says(protocol, data, "arch") is not None
    files = chain(protocol)
    size = arch if for_one else _line(files, "arch", arch, row.where)[0]
    names = {
        "protocol": protocol,
        "encoder": {"arch": size},
        "data": {"name": _line(files, "data", data, row.where)[0]},
    }
    layers = combination(protocol, data, None if for_one else arch, Layer(names, row.where))
    return [*layers, Layer({k: v for k, v in row.values.items() if k not in ("arch", "data")}, row.where)]


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Nested values of all layers, later ones over earlier ones."""
    values: dict[str, Any] = {}
    for layer in layers:
        _put(values, layer.values)
    return values


def _put(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping):
            if not isinstance(under.get(key), dict):
                under[key] = {}
            _put(under[key], value)
        else:
            under[key] = value


def places(layers: Sequence[Layer]) -> dict[str, str]:
    """Dotted key -> the place that its value comes from."""
    found: dict[str, str] = {}
    for layer in layers:
        for key, _ in flat(layer.values):
            found[key] = layer.where
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
