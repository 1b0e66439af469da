"""From suites and checkpoints to steps: every job of a run by name, what it starts from, and what must be done before it.

Reads no data and builds no model, so that a plan can be shown where neither is there. Jobs themselves are in `jobs`, how they
get onto machines in `launchers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError, unknown
from backbones.vit.arch import parse_arch
from mae_bench.jobs.from_suite import Entry, Group, Plan, from_suite
from mae_bench.jobs.from_tasks import from_tasks
from mae_bench.jobs.job import Job, job_name
from mae_bench.recipes.load import recipe_hash, short_name
from mae_bench.recipes.options import Options
from tasks.recipe import Recipe


@dataclass(frozen=True)
class Step:
    """A job to come. `after` names the step whose result it starts from, `source` is a checkpoint of the command line."""

    entry: Entry
    method: str
    variant: str = ""
    source: Checkpoint | None = None
    after: str | None = None

    @property
    def name(self) -> str:
        """The job's name, of which a plan has each once."""
        recipe = self.entry.recipe
        return job_name(recipe.protocol(), self.entry.recipe_name, self.method, recipe.seed, self.variant)

    @property
    def recipe(self) -> Recipe:
        return self.entry.recipe

    def job(self, source: Checkpoint | None) -> Job:
        """The job, `source` being the checkpoint that it starts from (of `after`, or its own)."""
        return Job(self.entry.recipe_name, self.recipe, source, self.entry.pretraining, self.variant)


@dataclass(frozen=True)
class Steps:
    """What a run is made of, in an order in which every step comes after what it starts from."""

    steps: list[Step]
    tables: list[str] = field(default_factory=list)
    speed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # for people: what is left out, and why

    def __getitem__(self, name: str) -> Step:
        for step in self.steps:
            if step.name == name:
                return step
        raise unknown("job", name, [step.name for step in self.steps])


@dataclass(frozen=True)
class Request:
    """What the command line or the API asks for: the same request gives the same steps in every process."""

    checkpoints: Sequence[str] = ()  # FILE, or NAME=FILE
    scratch: str | None = None
    tasks: Sequence[str] = ()
    suite: str | None = None
    options: Options = field(default_factory=Options)

    def arguments(self) -> list[str]:
        """As ``mae-bench run`` takes them."""
        options = self.options
        given = [("--checkpoint", c) for c in self.checkpoints]
        given += [("--data", f"{name}={folder}" if name else folder) for name, folder in options.data.items()]
        given += [("--set", text) for text in options.overrides]
        single = {"--scratch": self.scratch, "--tasks": ",".join(self.tasks), "--suite": self.suite}
        given += [(flag, value) for flag, value in single.items() if value]
        for flag, seeds in {"--seeds": options.seeds, "--pretrain-seeds": options.pretrain_seeds}.items():
            given += [(flag, ",".join(map(str, seeds)))] if seeds is not None else []
        return [text for pair in given for text in pair]


def plan(request: Request) -> Steps:
    """The steps of a request.

    Raises:
        UserError: unknown names, an unreadable checkpoint, or nothing that fits the checkpoints.
    """
    sources = _sources(request.checkpoints)
    if (request.suite is None) == (not request.tasks):
        raise UserError("give one of --suite and --tasks")
    if request.suite is not None:
        if request.scratch is not None:
            raise UserError("--scratch goes with --tasks; a suite says itself what starts from scratch")
        return _of_suite(request.suite, sources, request.options)
    if bool(sources) == (request.scratch is not None):
        raise UserError("give one of --checkpoint FILE and --scratch ARCH")
    if request.scratch is not None:
        parse_arch(request.scratch)
        made = from_tasks(request.tasks, request.scratch, "scratch", request.options)
        return _checked(list(_of_group(made.groups[0], [])), made)
    made, steps = Plan(), []
    for source in sources:
        of_source = from_tasks(request.tasks, source.arch, "checkpoint", request.options)
        made += of_source
        steps += [Step(e, source.method, source=source) for e in of_source.entries]
    return _checked(steps, made)


@lru_cache(maxsize=32)
def _load(path: str) -> Checkpoint:
    return load_checkpoint(path)


def _sources(items: Sequence[str]) -> list[Checkpoint]:
    """``FILE`` or ``NAME=FILE``, where NAME takes the place of what the file says of its method."""
    sources: dict[tuple[str, str], Checkpoint] = {}
    for item in items:
        name, separator, path = item.partition("=")
        named = bool(separator) and not Path(item).exists()
        source = replace(_load(path), method=name) if named else _load(item)
        key = (source.method, source.arch)
        if key in sources:
            raise UserError(
                f"--checkpoint {item}: another {source.arch} is called {source.method} already: "
                "tell them apart by --checkpoint NAME=FILE"
            )
        sources[key] = source
    return list(sources.values())


def _of_suite(name: str, sources: list[Checkpoint], options: Options) -> Steps:
    made = from_suite(name, options, pretrain=not sources)
    wanted = {e.recipe.encoder.arch for e in made.entries if e.start != "scratch"}
    for source in sources:
        if source.arch not in wanted:
            raise UserError(
                f"suite {name} has nothing for a {source.arch} ({source.path}): its recipes are for "
                f"{', '.join(sorted(wanted)) or 'training from scratch'}"
            )
    found = {source.arch for source in sources} or {p.recipe.encoder.arch for p in made.pretrainings}
    if not found and wanted:
        raise UserError(f"suite {name} needs a checkpoint: give --checkpoint FILE")
    left_out = [
        f"no checkpoint of {arch}: {sum(e.start != 'scratch' and e.recipe.encoder.arch == arch for e in made.entries)} "
        "jobs left out"
        for arch in sorted(wanted - found)
    ]
    steps = [step for group in made.groups for step in _of_group(group, sources)]
    return _checked(steps, made, left_out)


def _checked(steps: Sequence[Step], made: Plan, left_out: Sequence[str] = ()) -> Steps:
    """Each step once, however many suites have it; two different ones by one name are a mistake."""
    by_name: dict[str, Step] = {}
    for step in steps:
        other = by_name.setdefault(step.name, step)
        if recipe_hash(other.recipe) != recipe_hash(step.recipe) or other.after != step.after:
            raise UserError(
                f"two different jobs would be called {step.name}: run the suites that they are of one by one, into folders "
                "of their own"
            )
    notes = [*made.missing, *left_out]
    return Steps(list(by_name.values()), made.tables, made.speed, notes)


def _of_group(group: Group, sources: Sequence[Checkpoint]) -> Iterator[Step]:
    """Steps of one suite file: pre-trainings, each with what starts from it; what starts from scratch comes after the first."""
    scratch = [Step(e, "scratch") for e in group.entries if e.start == "scratch"]
    labels = _labels(group.pretrainings)
    for i, pretraining in enumerate(group.pretrainings):
        before = Step(pretraining, "scratch", variant=labels[i][0])
        yield before
        yield from scratch if i == 0 else []
        yield from _downstream(group.entries, pretraining.recipe.encoder.arch, "MAE", labels[i][1], after=before.name)
    if not group.pretrainings:
        yield from scratch
    for source in sources:
        yield from _downstream(group.entries, source.arch, source.method, "", source=source)


def _downstream(
    entries: Sequence[Entry],
    arch: str,
    method: str,
    variant: str,
    *,
    after: str | None = None,
    source: Checkpoint | None = None,
) -> Iterator[Step]:
    """What starts from one encoder, first what starts from it itself, then what starts from the results of that."""
    fitting = [e for e in entries if e.start != "scratch" and e.recipe.encoder.arch == arch]
    of_results = [e for e in fitting if e.start != "checkpoint"]
    tuned = source is not None and bool(source.head)
    results: dict[tuple[str, int], str] = {}
    for entry in fitting:
        if entry.start == "checkpoint" and not (tuned and entry.recipe_name in {e.start for e in of_results}):
            step = Step(entry, method, variant, source, after)
            results[entry.recipe_name, entry.recipe.seed] = step.name
            yield step
    for entry in of_results:
        if source is not None and tuned:
            if entry.recipe.encoder.img_size == source.img_size[0]:  # a model tuned at 224 is none of the 448's
                yield Step(entry, method, variant, source, after)
        elif name := results.get((entry.start, entry.recipe.seed)):
            yield Step(entry, method, variant, after=name)


def _labels(pretrainings: Sequence[Entry]) -> list[tuple[str, str]]:
    """(label of its own job, label of the jobs that start from it) of each; empty where the names differ without one."""

    def count(**wanted: Any) -> int:
        return sum(all(_facts(p)[key] == value for key, value in wanted.items()) for p in pretrainings)

    labels = []
    for facts in map(_facts, pretrainings):
        named_alike = count(short=facts["short"], seed=facts["seed"]) > 1
        of_row = f"{facts['short']}-{facts['arch']}" if named_alike else facts["short"]
        several = count(arch=facts["arch"]) > 1
        seeds = f"pre{facts['seed']}" if count(short=facts["short"], arch=facts["arch"]) > 1 else ""
        rows = len({_facts(p)["short"] for p in pretrainings if _facts(p)["arch"] == facts["arch"]}) > 1
        parts = [of_row if rows else "", seeds] if several else []
        labels.append((facts["arch"] if named_alike else "", "-".join(filter(None, parts))))
    return labels


def _facts(pretraining: Entry) -> dict[str, Any]:
    recipe = pretraining.recipe
    return {"short": short_name(pretraining.recipe_name), "arch": recipe.encoder.arch, "seed": recipe.seed}
