"""What `mae-bench run --dry-run` says of a plan: state, data, and what each job costs where that is published."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from mae_bench.jobs import ledger
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.recipes.load import load_recipe, recipe_hash
from tasks import require
from tasks.datasets.roots import data_root


@dataclass(frozen=True)
class Forecast:
    """One job to come."""

    job: str
    recipe: str
    start: str  # "scratch", a checkpoint file, or the job whose result it starts from
    seed: int
    gpus: int
    state: str  # done | resumes | new
    data: str  # its folder, or what is missing
    data_found: bool
    missing_packages: str | None
    gpu_hours: float | None  # published ones, of the recipe without overrides; None when there are none
    cost_source: str


def forecast(plan: JobPlan, out: Path) -> list[Forecast]:
    """A line for each job."""
    return [_of_job(plan, job, out) for job in plan.jobs]


def as_json(plan: JobPlan, lines: list[Forecast]) -> dict[str, Any]:
    """For ``--json``: jobs, and what is left to do in published GPU-hours."""
    hours, without = _total(lines)
    rest = {"gpu_hours_to_do": hours, "jobs_without_published_cost": without, "tables": plan.tables}
    return {"jobs": [asdict(line) for line in lines], **rest, "speed": plan.speed, "notes": plan.notes}


def as_rows(lines: list[Forecast]) -> list[dict[str, str]]:
    """For a table on the terminal."""
    return [
        {
            "job": line.job,
            "starts from": line.start,
            "gpus": str(line.gpus),
            "state": line.state,
            "GPU-hours": "–" if line.gpu_hours is None else f"{line.gpu_hours:,.0f}",
            "data": "; ".join(filter(None, [line.data, line.missing_packages])),
        }
        for line in lines
    ]


def summary(plan: JobPlan, lines: list[Forecast]) -> list[str]:
    """What is to be said below the table."""
    count = {state: sum(line.state == state for line in lines) for state in ("done", "resumes", "new")}
    said = [f"{len(lines)} jobs: " + ", ".join(f"{n} {state}" for state, n in count.items() if n)] if lines else []
    hours, without = _total(lines)
    counted = len(_to_do(lines)) - without
    if counted:
        said.append(f"GPU-hours to do: {hours:,.0f} for {counted} jobs; not published for {without}")
    elif without:
        said.append("GPU-hours to do: not published for any of these jobs")
    said += [f"cost: {source}" for source in dict.fromkeys(line.cost_source for line in lines if line.cost_source)]
    said += [f"measures the speed of pre-training steps of {arch}" for arch in plan.speed]
    said += [f"note: {note}" for note in plan.notes]
    missing = dict.fromkeys(line.data for line in lines if not line.data_found)
    return [*said, *(f"missing: {data}" for data in missing)]


def _to_do(lines: list[Forecast]) -> list[Forecast]:
    return [line for line in lines if line.state != "done"]


def _total(lines: list[Forecast]) -> tuple[float, int]:
    """Published GPU-hours of what is not done, and the number of jobs for which there are none."""
    hours = [line.gpu_hours for line in _to_do(lines)]
    return sum(h for h in hours if h is not None), sum(h is None for h in hours)


def _of_job(plan: JobPlan, job: PlannedJob, out: Path) -> Forecast:
    data, found = _data(job)
    gpu_hours, source = published_cost(job)
    return Forecast(
        job=job.name,
        recipe=job.recipe_name,
        start=job.after or (str(job.checkpoint.path) if job.checkpoint else "scratch"),
        seed=job.recipe.seed,
        gpus=job.recipe.gpus,
        state=ledger.state(out, plan, job),
        data=data,
        data_found=found,
        missing_packages=_missing_packages(job.recipe.task),
        gpu_hours=gpu_hours,
        cost_source=source,
    )


def published_cost(job: PlannedJob) -> tuple[float | None, str]:
    """GPU-hours and who says so; nothing where the recipe is not as it was published."""
    plain_hash, gpu_hours, source = _published(job.recipe_name)
    return (gpu_hours, source) if recipe_hash(job.recipe) == plain_hash else (None, "")


@lru_cache(maxsize=512)
def _published(recipe_name: str) -> tuple[str, float | None, str]:
    """A recipe's hash as it stands, and its published cost, which another base or an override does not have."""
    try:
        recipe = load_recipe(recipe_name)
    except UserError:  # made for the encoder at hand: nobody has published it
        return "", None, ""
    return recipe_hash(recipe), recipe.cost.gpu_hours, recipe.cost.source


def _data(job: PlannedJob) -> tuple[str, bool]:
    data = job.recipe.data
    if data.name == "embedded" and data.root is None:
        return "embedded", True
    try:
        return str(data_root(data.name, data.root)), True
    except UserError as e:
        return str(e), False


@lru_cache(maxsize=16)
def _missing_packages(task: str) -> str | None:
    try:
        require(task)
    except UserError as e:
        return str(e)
    return None
