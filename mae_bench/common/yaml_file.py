"""The one door for YAML: recipes, suites, published figures and values of ``--set``, whoever wrote them.

What comes through is plain data of bounded size: no tags, no duplicate keys, no interpolation (``${…}`` would let a file read
environment variables into records that people publish), and anchors only as far as they stay small when written out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import UserError
from backbones.plain_files import read_plain

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 50_000  # of the content with all aliases written out

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast


class _Loader(_BASE):
    """Safe loader that refuses duplicate keys and reads ``1e-3`` as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value} stands twice", node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: not readable, not YAML, too large or too deep, or no mapping; the line names the file.
    """
    try:
        text = read_plain(path, MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(e).split())}") from e
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a YAML mapping")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text, as `read_yaml` takes it; `where` is named in errors."""
    check_size(text, where)
    try:
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError) as e:  # also a date with a 13th month, a number of 5,000 digits
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(e).split())}") from e
    refuse_interpolation(content, where)
    return content


def refuse_interpolation(content: Any, where: str, key: str = "") -> None:
    """A UserError where a text in `content` holds ``${``, which OmegaConf would resolve."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            refuse_interpolation(name, where, key)
            refuse_interpolation(value, where, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list):
        for value in content:
            refuse_interpolation(value, where, key)
    elif isinstance(content, str) and "${" in content:
        shown = " ".join(content.split())
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        raise UserError(f"{where}: {key or 'key'}: {shown}: nothing is put in for ${{…}} here: write the value itself")


def check_size(text: str, where: str) -> None:
    """A UserError where a text is no YAML, nested too deeply or too large with aliases written out; builds nothing."""
    try:
        _count(text, where)
    except yaml.YAMLError as e:
        raise UserError(f"{where}: not readable as YAML: {' '.join(str(e).split())}") from e


def _count(text: str, where: str) -> None:
    anchors: dict[str, int] = {}  # of finished nodes: what each counts for
    open_nodes: list[list[Any]] = [[None, 0]]  # [anchor, nodes so far] from the document inwards
    for event in yaml.parse(text, Loader=_BASE):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, count = open_nodes.pop()
            _finish(anchors, anchor, count, open_nodes)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in open_nodes}:
                raise UserError(f"{where}: *{event.anchor} stands inside &{event.anchor} itself")
            open_nodes[-1][1] += anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            _finish(anchors, event.anchor, 1, open_nodes)
        if len(open_nodes) > MAX_DEPTH:
            raise UserError(f"{where}: nested more than {MAX_DEPTH} deep")
        if open_nodes[-1][1] > MAX_NODES:
            raise UserError(f"{where}: more than {MAX_NODES:,} values, anchors written out")


def _finish(anchors: dict[str, int], anchor: str | None, count: int, open_nodes: list[list[Any]]) -> None:
    if anchor is not None:
        anchors[anchor] = count
    open_nodes[-1][1] += count
