"""The report's file: contents through the template, one file with style and script inside. jinja2 escapes all text."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from backbones import atomic
from mae_bench.common.text import plain
from mae_bench.records.record import Record
from mae_bench.report.contents import Contents, collect_contents, costs, recipe_key, run_name
from tasks.datasets import account

_HERE = Path(__file__).parent
_HEADLINE = 4  # devices and the like that the summary names


def write_report(runs: Path, out: Path) -> Contents:
    """Writes the report of the runs below `runs` to `out`; the same files give the same bytes.

    Raises:
        UserError: no such folder, nothing in it, or `out` cannot be written.
    """
    atomic.check_writable(out)
    contents = collect_contents(runs)
    atomic.write_text(out, render(contents, runs))
    return contents


def render(contents: Contents, runs: Path) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        contents=contents,
        style=(_HERE / "page.css").read_text("utf-8"),
        script=(_HERE / "page.js").read_text("utf-8"),
        facts=facts(contents),
        notes=[caution for caution in contents.cautions if not caution.serious],
        several_seeds=any(len(cell.seeds) > 1 for cell in contents.cells.values()),
        any_published=any(group.published for group in contents.bars),
        any_gain=any(bar.gain for group in contents.bars for bar in group.bars),
        costs=costs(contents),
        runs=[{"id": f"run-{i}", **provenance(r, runs)} for i, r in enumerate(contents.records)],
    )


def facts(contents: Contents) -> list[str]:
    """What the page is about, in a few words each: runs, data, devices, hours, days."""
    records = [record for record in contents.records if record.status == "done"]
    failed = sum(job.state == "failed" for job in contents.jobs) + sum(r.status == "failed" for r in contents.records)
    others = len(contents.jobs) + len(contents.records) - len(records) - failed
    days = sorted({time[:10] for record in contents.records for time in (record.started, record.finished)})
    hours = sum(record.device_hours or 0.0 for record in records)
    return [
        f"{len(records)} run{'' if len(records) == 1 else 's'} done",
        *([f"{failed} failed"] if failed else []),
        *([f"{others} not finished"] if others else []),
        *([_names({record.data.name for record in records})] if records else []),
        *([_names({f"{r.device.count} x {r.device.name}" for r in records})] if records else []),
        *([f"{hours:.2f} device hours"] if records else []),
        *([days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"] if days else []),
    ]


def provenance(record: Record, runs: Path) -> dict[str, Any]:
    """What a run's entry shows: (label, text) pairs in their order, and what they are headed by."""
    init, data, git, host = record.init, record.data, record.git, record.host
    primary = record.metrics.last.get(record.primary_metric) if record.primary_metric else record.final_loss
    memory = "" if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 2**30:.2f} GiB"
    pairs = [
        ("folder", run_name(record, runs)),
        ("status", record.status + (f": {record.error}" if record.error else "")),
        ("recipe", recipe_key(record)),
        ("seed", str(record.seed)),
        ("encoder", f"{record.arch}, {record.img_size} px, from {init.method}"),
        ("checkpoint", init.checkpoint or ""),
        ("checkpoint's sha256", init.sha256 or ""),
        ("checkpoint's layout", init.layout or ""),
        ("data", f"{data.name} at {data.root}: {data.train_count:,} training, {data.val_count:,} {data.split} images"),
        ("data's fingerprint", data.fingerprint),
        ("data, account", account.summary(data.account)),
        ("data, notes", "; ".join(data.notes)),
        ("data, looked at", "; ".join(data.looked)),
        ("metrics, last", _numbers(record.metrics.last)),
        ("metrics, best epoch", _numbers(record.metrics.best or {})),
        ("selection", record.metrics.selection if record.primary_metric else ""),
        ("device", f"{record.device.count} x {record.device.name} ({record.device.type}), {record.precision}"),
        ("speed", "" if not record.images_per_s else f"{record.images_per_s:,.1f} images/s in training"),
        ("inference", "" if record.inference_s_per_image is None else f"{record.inference_s_per_image:.4f} s an image"),
        ("peak memory", memory),
        ("wall time", "" if record.wall_time_s is None else f"{record.wall_time_s:,.0f} s"),
        ("started, finished", f"{record.started}, {record.finished}"),
        ("command", shlex.join(record.command.argv) if record.command else ""),
        ("in folder", record.command.folder if record.command else ""),
        ("host", f"{host.name}, {host.system}, {host.cpus} CPUs, {host.threads} threads" if host else ""),
        ("environment", " ".join(f"{k}={v}" for k, v in host.environment.items()) if host else ""),
        ("commit", "" if git is None else git.commit + (", changed" if git.dirty else "")),
        ("software", ", ".join(f"{name} {version}" for name, version in record.software.items())),
        ("recovered from", ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in record.recovered.items() if n)),
        ("warnings", "; ".join(record.warnings)),
        ("pre-training", json.dumps(init.pretraining, ensure_ascii=False) if init.pretraining else ""),
        ("job", record.job_id),
    ]
    return {
        "name": plain(record.name),
        "seed": record.seed,
        "status": record.status,
        "headline": "" if primary is None else f"{record.primary_metric or 'loss'} {primary:.4g}",
        "pairs": [(label, plain(text)) for label, text in pairs if text],
    }


def _numbers(metrics: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {'nan' if value is None else f'{value:.4g}'}" for name, value in metrics.items())


def _names(values: set[str]) -> str:
    names = sorted(values)
    rest = len(names) - _HEADLINE
    return ", ".join(names[:_HEADLINE]) + (f" and {rest} more" if rest > 0 else "")


def summary(contents: Contents) -> str:
    """A line for the command line."""
    return ", ".join(facts(contents))
