"""Repeats a record's job: the same recipe, checkpoint, data and seed in a folder of its own; metrics side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.encoders.plugin import PREFIX as PLUGIN
from backbones.encoders.timm_models import PREFIX as TIMM
from backbones.errors import UserError
from mae_bench.common.console import say
from mae_bench.jobs.job import PlannedJob
from mae_bench.jobs.run import run_job
from mae_bench.recipes.load import from_record
from mae_bench.records import record
from mae_bench.records.record import Record


def rerun(path: str | Path, out: str | Path, data: Mapping[str, str] | None = None) -> tuple[Record, Record]:
    """Runs the job of a ``record.json`` again in the run directory `out`; (the old record, the new one).

    Args:
        data: other folders of data sets than the record's, name -> folder.

    Raises:
        UserError: no record, or its checkpoint is gone or has other content.
    """
    old = record.read(path)
    recipe = from_record(old.task, old.recipe, old.protocol, str(path))
    folder = (data or {}).get(recipe.data.name, (data or {}).get(""))
    recipe.data.root = folder or recipe.data.root
    checkpoint = _checkpoint(old, str(path))
    pretraining = old.init.pretraining if recipe.task == "pretraining" else None
    new = run_job(PlannedJob(old.recipe_name, recipe, checkpoint, pretraining), lambda _: Path(out))
    for what, before, after in (
        ("data set's fingerprint", old.data.fingerprint, new.data.fingerprint),
        ("software", old.software, new.software),
        ("device", old.device, new.device),
    ):
        if before != after:
            say(f"another {what} than the record's: {_difference(before, after)}", style="yellow")
    return old, new


def compare(old: Record, new: Record) -> list[dict[str, Any]]:
    """Metric, both figures and their difference, None for not-a-number; the last loss where there are no metrics."""
    rows = []
    before = {**old.metrics.last, "final_loss": old.final_loss}
    after = {**new.metrics.last, "final_loss": new.final_loss}
    for name in dict.fromkeys([*before, *after]):
        was, now = before.get(name), after.get(name)
        difference = None if was is None or now is None else now - was
        rows.append({"metric": name, "record": was, "again": now, "difference": difference})
    return rows


def _checkpoint(old: Record, where: str) -> Checkpoint | None:
    if old.init.sha256 is None:
        return None
    source = old.init.checkpoint or ""
    if source.startswith(PLUGIN):
        raise UserError(
            f"{where}: init.checkpoint: {source} is a plug-in, and a record's word runs no code: run it again by "
            f"--checkpoint {source} --tasks {old.protocol}"
        )
    if not Path(source.partition("=")[2] if source.startswith(TIMM) else source).is_file():
        raise UserError(f"{where}: init.checkpoint: {old.init.checkpoint} is not there: put the file back")
    checkpoint = load_checkpoint(source)
    if checkpoint.sha256 != old.init.sha256:
        raise UserError(
            f"{where}: init.checkpoint: {checkpoint.path} has other content now (sha256 {checkpoint.sha256[:12]}…, the record "
            f"says {old.init.sha256[:12]}…): put the file back"
        )
    return replace(checkpoint, method=old.init.method)


def _difference(before: Any, after: Any) -> str:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [k for k in {**before, **after} if before.get(k) != after.get(k)]
        return ", ".join(f"{k} {before.get(k)} -> {after.get(k)}" for k in keys)
    return f"{before} -> {after}"
