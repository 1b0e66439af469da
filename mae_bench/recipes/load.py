"""Finding, loading, overriding and hashing recipes: rows of protocols and YAML files, checked against the task's schema."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from backbones.errors import UserError, unknown
from mae_bench.common.yaml_file import parse_yaml, read_yaml, refuse_interpolation
from mae_bench.recipes import any_encoder, originals, protocol_files
from mae_bench.recipes.any_encoder import EncoderFacts
from mae_bench.recipes.protocol_files import Layer, flat, folders, merged, places, row_names
from mae_bench.recipes.published import cite
from mae_bench.recipes.scaling import at_batch_size
from tasks import recipe_schema, registry, task_of_protocol
from tasks.kinds import wrong_kind
from tasks.recipe import Recipe, check_ranges

if TYPE_CHECKING:  # its import takes longer than listing all recipes
    from omegaconf import DictConfig

# Keys that say how a run is carried out, not what is learnt: left out of a job's identity.
_RUNTIME = (
    *(
        "compile",
        "parallel",
        "activation_checkpointing",
        "workers",
        "cache_images",
        "eval_batch_size",
        "micro_batch_size",
        "log_every_steps",
    ),
    *("checkpoint_every_seconds", "checkpoint_every_steps", "keep_checkpoints"),
    *("max_skipped_steps", "worker_timeout", "rendezvous_timeout"),
)
# Keys that came later: with their default a recipe is the one that it was.
_LATER = (
    *("data.label_share", "data.label_list", "data.allow", "data.white_level", "train.reference_batch_size"),
    *("encoder.mean", "encoder.std", "encoder.interpolation", "encoder.crop_pct"),
)
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")  # it names a folder
_OF_ITSELF = ("cost", "published")  # what a recipe took and gave says nothing of one that stands on it


def recipe_names() -> list[str]:
    """Names of the recipes: protocol and row, such as ``linear/vit_base_patch16_imagenet``."""
    return sorted(row_names())


def suite_names() -> list[str]:
    """Names of the suites."""
    return sorted(path.stem for folder in folders() for path in (folder / "suites").glob("*.yaml"))


def find(kind: str, name: str) -> Path:
    """The file that holds a recipe or suite, which is named or is a path that ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"{kind} {name}: no such file")
        return path
    if kind == "suite":
        for folder in folders():
            if "/" not in name and (path := folder / "suites" / f"{name}.yaml").is_file():
                return path
        raise unknown(kind, name, suite_names())
    if protocol_files.find_row(name) is None and any_encoder.from_name(name) is None:
        raise unknown(kind, name, recipe_names())
    return protocol_files.protocols()[name.partition("/")[0]].path


def short_name(recipe_name: str) -> str:
    """A recipe's name without folders and suffix."""
    return Path(recipe_name).stem if recipe_name.endswith((".yaml", ".yml")) else recipe_name.rsplit("/", 1)[-1]


def load_recipe(name: str, overrides: Sequence[str] = (), *, base: str | None = None) -> Recipe:
    """A recipe by name or path with ``a.b=c`` overrides, as its task's dataclass.

    A recipe may stand on another one (`base`, by name, or by path beside it), whose values it overrides. The argument `base`
    takes that one's place, so that one row of an ablation serves several models and data sets. ``PROTOCOL/ARCH_DATA`` needs no
    row: `any_encoder` makes one of the protocol's values.

    Raises:
        UserError: unknown recipe, key or value type; the nearest key is named.
    """
    return _build([*layers_of(name, base=base), *map(_override, overrides)], name)


def recipe_for(protocol: str, data: str, encoder: EncoderFacts, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a protocol on a data set for an encoder that has no row; its name is `any_encoder.name_for`'s.

    Args:
        data: a data set that the protocol has values for, or the user's own.

    Raises:
        UserError: the protocol is unknown, or has no values for data sets that it does not know; an override is wrong.
    """
    name = any_encoder.name_for(protocol, data, encoder.arch)
    return _build([*any_encoder.layers_for(protocol, data, encoder), *map(_override, overrides)], name)


def explain(name: str, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Every key of a recipe in the schema's order: ``key``, its ``value``, and ``where`` that comes from."""
    layers = [*layers_of(name), *map(_override, overrides)]
    recipe = _build(layers, name)
    found = places(layers)
    scaled = "scaled to train.batch_size" if recipe.train.batch_size != _written_for(layers) else ""

    def where(key: str) -> str:
        if scaled and key in ("optimizer.lr", "schedule.iterations", "schedule.warmup_iterations") and key in found:
            return f"{found[key]}, {scaled}"
        if key == "train.precision" and (other := originals.precision(recipe.task, recipe.train.precision)):
            return f"{found.get(key, 'default of the task')}; {other}"
        above = next((found[k] for k in found if key.startswith(f"{k}.")), None)
        return found.get(key, above or "default of the task")

    return [{"key": key, "value": value, "where": where(key)} for key, value in flat(as_dict(recipe))]


def _written_for(layers: Sequence[Layer]) -> Any:
    train = merged(layers).get("train", {})
    return train.get("reference_batch_size") or train.get("batch_size")


def layers_of(name: str, *, base: str | None = None, seen: tuple[str, ...] = ()) -> list[Layer]:
    """What a recipe is made of, from the first layer to its own values; `base` as in `load_recipe`."""
    if name in seen:
        raise UserError(f"{name}: base: leads back to itself")
    seen = (*seen, name)
    if name.endswith((".yaml", ".yml")):
        return _layers_of_file(find("recipe", name), base, seen)
    row = protocol_files.find_row(name)
    if row is None:
        if (made := any_encoder.from_name(name)) is None or base is not None:
            raise unknown("recipe", name, recipe_names())
        return made
    own = row.values.get("base")
    if base == name or (base is None and own is None):
        return protocol_files.row_layers(name) if own is None else layers_of(name, seen=seen[:-1])
    if own is None:
        raise UserError(f"{name} stands on no recipe that {base} could take the place of")
    protocol = name.partition("/")[0]
    if base is None:
        if not isinstance(own, str):
            raise UserError(f"{row.where}: base: {own}: give a recipe's name")
        base = f"{protocol}/{own}" if protocol_files.find_row(f"{protocol}/{own}") else own
    values = {"protocol": protocol, **{k: v for k, v in row.values.items() if k != "base"}}
    return [*_inherited(base, seen), Layer(values, row.where)]


def _layers_of_file(path: Path, base: str | None, seen: tuple[str, ...]) -> list[Layer]:
    content = read_yaml(path)
    if "rows" in content:
        raise UserError(f"{path}: holds rows: give its folder by --include, and a recipe as {path.stem}/ROW")
    own = content.pop("base", None)
    if base is not None and base.endswith((".yaml", ".yml")) and find("recipe", base) == path:
        base = None
    base = own if base is None else base
    layer = Layer(content, str(path))
    if base is None:
        return [layer]
    if not isinstance(base, str):
        raise UserError(f"{path}: base: {base}: give a recipe's name")
    beside = path.parent / f"{base}.yaml"
    return [*_inherited(str(beside) if beside.is_file() else base, seen), layer]


def _inherited(base: str, seen: tuple[str, ...]) -> list[Layer]:
    """Layers of the recipe that another one stands on."""
    return [
        Layer({k: v for k, v in layer.values.items() if k not in _OF_ITSELF}, layer.where)
        for layer in layers_of(base, seen=seen)
    ]


def _override(text: str) -> Layer:
    """``a.b=c`` as a layer."""
    key, separator, value = text.partition("=")
    shown = _one_line(f"--set {text}")
    if not separator or not key:
        raise UserError(f"{shown}: give key=value, such as --set optimizer.blr=1e-3")
    parts = key.split(".")
    if not all(parts):
        raise UserError(f"{shown}: {key} is no key: give one such as optimizer.blr")
    content = parse_yaml(value, shown)
    for part in reversed(parts):
        content = {part: content}
    return Layer(content, shown)


def _build(layers: Sequence[Layer], name: str) -> Recipe:
    """The recipe that layers make, checked against the schema of its task."""
    values = merged(layers)
    if isinstance(values.get("published"), str):
        values["published"] = cite(values["published"])
    task = values.get("task")
    if not isinstance(task, str):
        raise UserError(f"{name}: a recipe needs task: {' | '.join(registry())}")
    try:
        recipe_schema(task)
    except UserError as e:
        raise UserError(f"{name}: {e}") from e
    recipe = _typed(task, values, name, layers)
    _check_protocol(recipe, name)
    return at_batch_size(recipe)


def from_record(task: str, values: Mapping[str, Any], protocol: str, where: str) -> Recipe:
    """The recipe that a record holds; `protocol` is the record's, for those from before recipes had that key."""
    refuse_interpolation(values, where)
    return _typed(task, {"protocol": protocol, **values}, where, [])


def _typed(task: str, values: Mapping[str, Any], name: str, layers: Sequence[Layer]) -> Recipe:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    for layer in layers or [Layer(dict(values), name)]:
        if said := wrong_kind(recipe_schema(task), layer.values):
            raise UserError(f"{layer.where}: {_one_line(said)}")
    try:
        config = OmegaConf.merge(_schema(task), values)
        recipe = cast(Recipe, OmegaConf.to_object(config))
    except MissingMandatoryValue as e:
        raise UserError(f"{name}: {e.full_key} has no value: give it in the recipe or by --set") from e
    except OmegaConfBaseException as e:
        _refuse(task, layers)
        raise UserError(f"{name}: {_first_line(e)}") from e
    check_ranges(recipe)
    return recipe


def _refuse(task: str, layers: Sequence[Layer]) -> None:
    """Says which of the layers the schema does not take; returns where it takes each of them."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    for layer in layers:
        try:
            OmegaConf.merge(_schema(task), layer.values)
        except (ConfigKeyError, ConfigAttributeError) as e:
            raise unknown("key", _one_line(str(e.full_key or e.key)), _keys(_schema(task)), where=layer.where) from e
        except OmegaConfBaseException as e:
            raise UserError(f"{layer.where}: {_first_line(e)}") from e


@lru_cache(maxsize=16)
def _schema(task: str) -> DictConfig:
    """A task's empty recipe, which merging copies; making one takes longer than reading a file."""
    from omegaconf import OmegaConf

    return cast("DictConfig", OmegaConf.structured(recipe_schema(task)))


def _check_protocol(recipe: Recipe, name: str) -> None:
    """A protocol that a task declares has to be what the values amount to: its tables would show them as what they are not."""
    protocol, implied = recipe.protocol, recipe.implied_protocol()
    if not _PROTOCOL.fullmatch(protocol):
        raise UserError(f"{name}: protocol={protocol}: give a name of letters, digits, - and _")
    if task_of_protocol(protocol) not in (None, recipe.task):
        raise UserError(f"{name}: protocol {protocol} is of task {task_of_protocol(protocol)}, not of {recipe.task}")
    if protocol != implied and {protocol, implied} <= set(registry()[recipe.task].protocols):
        raise UserError(
            f"{name}: its values are those of protocol {implied}, and it is called {protocol}: give a {implied} recipe, "
            f"protocol={implied}, or a protocol name of your own, which fills no table of the papers"
        )


def _first_line(error: Any) -> str:
    """Of an OmegaConf error, with the key that it is about; values of a wrong kind do not come this far."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{said} ({error.full_key})" if error.full_key else said


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    from omegaconf import DictConfig

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
    """sha256 over what a recipe learns: without title, data folder, seed (kept apart) and run-time keys.

    Nor the protocol, where it is the one that the values amount to, so that recipes keep the identity from before it was a key.
    """
    content = as_dict(recipe)
    for key in ("title", "published", "seed", "gpus", "cost"):
        content.pop(key)
    if recipe.protocol == recipe.implied_protocol():
        content.pop("protocol")
    content["data"].pop("root")
    if content.get("select_on") == "val":
        content.pop("select_on")
    for key in _LATER:
        section, _, name = key.partition(".")
        if content[section][name] == getattr(type(getattr(recipe, section))(), name):
            content[section].pop(name)
    for key in _RUNTIME:
        content["train"].pop(key)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe(name: str) -> dict[str, str]:
    """Name, task, architecture, data, title and published figure, for `mae-bench list recipes`; checks no schema."""
    values = merged(layers_of(name))
    return {
        "name": name,
        "task": str(values["task"]),
        "arch": str(values["encoder"]["arch"]),
        "data": str(values["data"]["name"]),
        "title": str(values.get("title", "")),
        "published": cite(str(values.get("published", ""))),
    }
