"""Finding, loading, overriding and hashing recipes and suites: YAML under ``configs/``, checked against the task's schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from backbones.errors import UserError, unknown
from mae_bench.recipes.scaling import at_batch_size
from tasks import recipe_schema
from tasks.recipe import Recipe, check_ranges

_PACKAGE = Path(__file__).parents[1]
# Keys that say how a run is carried out, not what is learnt: left out of a job's identity.
_RUNTIME = (
    *("compile", "workers", "cache_images", "eval_batch_size", "micro_batch_size", "log_every_steps"),
    *("checkpoint_every_seconds", "checkpoint_every_steps", "keep_checkpoints"),
    *("max_skipped_steps", "worker_timeout"),
)


def config_root() -> Path:
    """``configs/``: inside the installed package, or beside it in a checkout."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def recipe_names() -> list[str]:
    """Names of the shipped recipes: paths under ``configs/`` without suffix, such as ``linear/vit_base_patch16_imagenet``."""
    root = config_root()
    paths = (p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return sorted(p for p in paths if not p.startswith("suites/"))


def suite_names() -> list[str]:
    """Names of the shipped suites."""
    return sorted(p.stem for p in (config_root() / "suites").glob("*.yaml"))


def find(kind: str, name: str) -> Path:
    """The file of a shipped recipe or suite, or of a path that ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"{kind} {name}: no such file")
        return path
    names = recipe_names() if kind == "recipe" else suite_names()
    if name not in names:
        raise unknown(kind, name, names)
    folder = config_root() if kind == "recipe" else config_root() / "suites"
    return folder / f"{name}.yaml"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read with the safe loader."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(e).split())}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a YAML mapping")
    return content


def protocol(name: str) -> str:
    """A recipe's protocol is the folder it lies in: pretrain, finetune, linear, detection, segmentation."""
    path = find("recipe", name)
    return path.relative_to(config_root()).parts[0] if path.is_relative_to(config_root()) else path.parent.name


def short_name(recipe_name: str) -> str:
    """A recipe's name without folders and suffix."""
    return Path(recipe_name).stem if recipe_name.endswith((".yaml", ".yml")) else recipe_name.rsplit("/", 1)[-1]


def load_recipe(name: str, overrides: Sequence[str] = (), *, base: str | None = None) -> Recipe:
    """A recipe by name or path with ``a.b=c`` overrides, as its task's dataclass.

    A recipe may name another one as ``base:`` (by name, or by path beside it), whose values it overrides. `base` takes the
    place of the one that the file names, so that one row of an ablation serves several models and data sets.

    Raises:
        UserError: unknown recipe, key or value type; the nearest key is named.
    """
    path = find("recipe", name)
    layers = _layers(path, base=base)
    task = next((layer["task"] for layer in reversed(layers) if "task" in layer), None)
    if not isinstance(task, str):
        raise UserError(
            f"{path}: a recipe needs task: pretraining | classification | probing | detection | segmentation"
        )
    try:
        config = _schema(task)
    except UserError as e:
        raise UserError(f"{path}: {e}") from e
    for layer in layers:
        config = _merge(config, layer, str(path))
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UserError(f"--set {_one_line(text)}: give key=value, such as --set optimizer.blr=1e-3")
        config = _merge(config, _parse(key, value, f"--set {text}"), f"--set {text}")
    try:
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise UserError(f"{path}: {', '.join(missing)} has no value: give it in the recipe or by --set")
        recipe = cast(Recipe, OmegaConf.to_object(config))
        check_ranges(recipe)
        return at_batch_size(recipe)
    except OmegaConfBaseException as e:
        raise UserError(f"{path}: {_first_line(e)} ({e.full_key})") from e


@lru_cache(maxsize=16)
def _schema(task: str) -> DictConfig:
    """A task's empty recipe, which merging copies; making one takes longer than reading a file."""
    return cast(DictConfig, OmegaConf.structured(recipe_schema(task)))


def _parse(key: str, value: str, where: str) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value}"])))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError) as e:
        raise UserError(f"{_one_line(where)}: not readable: {_one_line(str(e))}") from e


def _layers(path: Path, seen: tuple[Path, ...] = (), *, base: str | None = None) -> list[dict[str, Any]]:
    """A file's content, that of its base before it; `base` replaces the file's own, unless it is the file itself."""
    if path in seen:
        raise UserError(f"{path}: base: leads back to itself")
    content = read_yaml(path)
    own = content.pop("base", None)
    if base is not None and find("recipe", base) == path:
        base = None
    base = own if base is None else base
    if base is None:
        return [content]
    if not isinstance(base, str):
        raise UserError(f"{path}: base: {base}: give a recipe's name")
    beside = path.parent / f"{base}.yaml"
    base_path = beside if beside.is_file() else find("recipe", base)
    inherited = _layers(base_path, (*seen, path))
    for layer in inherited:
        layer.pop("cost", None)  # what the base took says nothing of a recipe that differs from it
    return [*inherited, content]


def _merge(config: DictConfig, layer: dict[str, Any], where: str) -> DictConfig:
    try:
        return cast(DictConfig, OmegaConf.merge(config, layer))
    except (ConfigKeyError, ConfigAttributeError) as e:
        full = str(e.full_key or e.key)
        options = _keys(config)
        raise unknown("key", _one_line(full), options, where=_one_line(where)) from e
    except OmegaConfBaseException as e:
        raise UserError(f"{_one_line(where)}: {_first_line(e)} ({e.full_key})") from e


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in map(str, config):
        value = config._get_node(key)
        found.append(f"{prefix}{key}")
        if isinstance(value, DictConfig) and not value._is_none():
            found += _keys(value, f"{prefix}{key}.")
    return found


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values, for records and ``config.yaml``."""
    return asdict(recipe)


def recipe_hash(recipe: Recipe) -> str:
    """sha256 over what a recipe learns: without title, data folder, seed (kept apart) and run-time keys."""
    content = as_dict(recipe)
    for key in ("title", "published", "seed", "gpus", "cost"):
        content.pop(key)
    content["data"].pop("root")
    for key in ("label_share", "label_list"):  # keys that came later: without them a recipe is the one that it was
        if content["data"][key] is None:
            content["data"].pop(key)
    if not content["data"]["allow"]:
        content["data"].pop("allow")
    if content["data"]["white_level"] == 65535:
        content["data"].pop("white_level")
    for key in ("mean", "std", "interpolation", "crop_pct"):
        if content["encoder"][key] is None:
            content["encoder"].pop(key)
    if content["train"]["reference_batch_size"] is None:
        content["train"].pop("reference_batch_size")
    for key in _RUNTIME:
        content["train"].pop(key)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe(name: str) -> dict[str, str]:
    """Name, task, architecture, data, title and published figure, for `mae-bench list recipes`."""
    recipe = load_recipe(name)
    return {
        "name": name,
        "task": recipe.task,
        "arch": recipe.encoder.arch,
        "data": recipe.data.name,
        "title": recipe.title,
        "published": recipe.published,
    }
