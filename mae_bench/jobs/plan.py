"""From a request to a plan: every job of a run by name, what it starts from, and what must be done before it.

Reads no data and builds no model, so that a plan can be shown where neither is there. How jobs get onto machines is
`mae_bench.launchers`' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.encoders.preprocessing import ARCHITECTURE
from backbones.errors import UserError
from mae_bench.engine.optimizer import check
from mae_bench.jobs.for_encoder import check_arch, with_published_crop
from mae_bench.jobs.from_suite import SuiteFile, from_suite
from mae_bench.jobs.from_tasks import from_tasks
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.recipes.load import recipe_hash, short_name
from mae_bench.recipes.options import Options, named_path
from mae_bench.tables.definitions.data_sets import bare
from tasks import check_recipe


@dataclass(frozen=True)
class Request:
    """What the command line or the API asks for: the same request gives the same plan in every process."""

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


def make_plan(request: Request) -> JobPlan:
    """The jobs of a request.

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
        check_arch(request.scratch)
        plans = [from_tasks(request.tasks, request.scratch, None, request.options)]
    else:
        plans = [from_tasks(request.tasks, source.arch, source, request.options) for source in sources]
    compared = ["encoders"] if len({source.arch for source in sources}) > 1 else []
    tables = dict.fromkeys([*(table for each in plans for table in each.tables), *compared])
    notes = dict.fromkeys([*_taken_for_granted(sources), *(note for each in plans for note in each.notes)])
    return _checked([job for each in plans for job in each.jobs], JobPlan([], list(tables), notes=list(notes)))


def _taken_for_granted(sources: Sequence[Checkpoint]) -> Iterator[str]:
    """What no one told of the encoders at hand, one line each."""
    for source in sources:
        for fact, where in source.assumed.items():
            yield f"{ARCHITECTURE[fact]} of {source.method}: {where}"


@lru_cache(maxsize=32)
def _load(path: str) -> Checkpoint:
    return load_checkpoint(path)


def _sources(items: Sequence[str]) -> list[Checkpoint]:
    """``FILE`` or ``NAME=FILE``, where NAME takes the place of what the file says of its method."""
    sources: dict[tuple[str, str], Checkpoint] = {}
    for item in items:
        name, path = named_path("--checkpoint", item)
        source = replace(_load(path), method=name) if name else _load(path)
        key = (source.method, source.arch)
        if key in sources:
            raise UserError(
                f"--checkpoint {item}: another {source.arch} is called {source.method} already: "
                "tell them apart by --checkpoint NAME=FILE"
            )
        sources[key] = source
    return list(sources.values())


def _of_suite(name: str, sources: list[Checkpoint], options: Options) -> JobPlan:
    suite = from_suite(name, options, pretrain=not sources)
    sources = sources or _sources(suite.checkpoints)
    wanted = {job.recipe.encoder.arch for job in suite.jobs if job.start != "scratch"}
    for source in sources:
        if source.arch not in wanted:
            raise UserError(
                f"suite {name} has nothing for a {source.arch} ({source.path}): its recipes are for "
                f"{', '.join(sorted(wanted)) or 'training from scratch'}"
            )
    found = {source.arch for source in sources} | {p.recipe.encoder.arch for p in suite.pretrainings}
    if not found and wanted:
        raise UserError(f"suite {name} needs a checkpoint: give --checkpoint FILE")
    left_out = [
        f"no checkpoint of {arch}: "
        f"{sum(job.start != 'scratch' and job.recipe.encoder.arch == arch for job in suite.jobs)} jobs left out"
        for arch in sorted(wanted - found)
    ]
    jobs = [job for file in suite.files for job in _of_file(file, sources)]
    return _checked(
        jobs, JobPlan([], suite.tables, suite.speed, [*_taken_for_granted(sources), *suite.notes, *left_out])
    )


def _checked(jobs: Sequence[PlannedJob], rest: JobPlan) -> JobPlan:
    """Each job once, however many suites have it; two different ones by one name are a mistake."""
    by_name: dict[str, PlannedJob] = {}
    for job in map(with_published_crop, jobs):
        _check_values(job)
        other = by_name.setdefault(job.name, job)
        if recipe_hash(other.recipe) != recipe_hash(job.recipe) or other.after != job.after:
            raise UserError(
                f"two different jobs would be called {job.name}: run the suites that they are of one by one, into folders "
                "of their own"
            )
    return replace(rest, jobs=list(by_name.values()))


def _check_values(job: PlannedJob) -> None:
    """A UserError for values that would stop a job when its turn comes, after others have run for hours."""
    try:
        check(job.recipe)
        check_recipe(job.recipe)
        if job.checkpoint is None and job.after is None:
            check_arch(job.recipe.encoder.arch)
    except UserError as e:
        raise UserError(f"{job.name}: {e}") from e


class Encoder(NamedTuple):
    """What downstream jobs start from: a checkpoint of the command line, or the result of a pre-training of the plan."""

    arch: str
    method: str
    variant: str = ""
    source: Checkpoint | None = None
    after: str | None = None

    def start(self, job: PlannedJob) -> PlannedJob:
        """`job`, started from this encoder."""
        method = "" if self.source else self.method
        return replace(job, checkpoint=self.source, variant=self.variant, after=self.after, method_of_result=method)


def _of_file(file: SuiteFile, sources: Sequence[Checkpoint]) -> Iterator[PlannedJob]:
    """Jobs of one suite file: pre-trainings, each with what starts from it; from scratch comes after the first of them."""
    scratch = [job for job in file.jobs if job.start == "scratch"]
    labels = _labels(file.pretrainings)
    for i, pretraining in enumerate(file.pretrainings):
        before = replace(pretraining, variant=labels[i][0])
        yield before
        yield from scratch if i == 0 else []
        made = Encoder(before.recipe.encoder.arch, "MAE", labels[i][1], after=before.name)
        wanted = [job for job in file.jobs if not job.only_after or pretraining.recipe_name in job.only_after]
        yield from _downstream(wanted, made)
    if not file.pretrainings:
        yield from scratch
    for source in sources:
        yield from _downstream(file.jobs, Encoder(source.arch, source.method, source=source))


def _downstream(jobs: Sequence[PlannedJob], encoder: Encoder) -> Iterator[PlannedJob]:
    """What starts from one encoder, first what starts from it itself, then what starts from the results of that."""
    fitting = [job for job in jobs if job.start != "scratch" and job.recipe.encoder.arch == encoder.arch]
    fitting = _for_method(fitting, encoder.method)
    of_results = [job for job in fitting if job.start != "checkpoint"]
    source = encoder.source
    tuned = source is not None and bool(source.head)
    results: dict[tuple[str, int], str] = {}
    for job in fitting:
        if job.start == "checkpoint" and not (tuned and job.recipe_name in {other.start for other in of_results}):
            started = encoder.start(job)
            results[job.recipe_name, job.recipe.seed] = started.name
            yield started
    for job in of_results:
        if source is not None and tuned:
            if job.recipe.encoder.img_size == source.img_size[0]:  # a model tuned at 224 is none of the 448's
                yield encoder.start(job)
        elif name := results.get((job.start, job.recipe.seed)):
            yield replace(job, variant=encoder.variant, after=name, method_of_result=encoder.method)


def _for_method(jobs: Sequence[PlannedJob], method: str) -> list[PlannedJob]:
    """A method's own jobs, and those that name none where a protocol has none of its own."""
    own = [job for job in jobs if bare(method) in map(bare, job.methods)]
    protocols = {job.recipe.protocol for job in own}
    return [job for job in jobs if job in own or (not job.methods and job.recipe.protocol not in protocols)]


def _labels(pretrainings: Sequence[PlannedJob]) -> list[tuple[str, str]]:
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


def _facts(pretraining: PlannedJob) -> dict[str, Any]:
    recipe = pretraining.recipe
    return {"short": short_name(pretraining.recipe_name), "arch": recipe.encoder.arch, "seed": recipe.seed}
