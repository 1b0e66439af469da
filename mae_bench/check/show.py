"""A verdict for people and programs: a table of what moved, and JSON. For CI systems there is `ci`."""

from __future__ import annotations

import math
from typing import Any

from mae_bench.check.compare import HOLDS, REGRESSED, Finding, Verdict
from mae_bench.common.text import plain
from mae_bench.tables.formats.markdown import escape

MISSING = "–"
_RESULTS = {HOLDS: "holds", REGRESSED: "regressed"}


def result(verdict: Verdict) -> str:
    """holds | regressed | could not compare."""
    return _RESULTS.get(verdict.code, "could not compare")


def rows(verdict: Verdict) -> list[dict[str, str]]:
    """A line a figure, the worst first."""
    return [
        {
            "state": finding.state,
            "cell": plain(finding.cell),
            "metric": plain(finding.metric),
            "baseline": number(finding.held),
            "now": number(finding.now) + (f" ± {number(finding.std)}" if finding.std is not None else ""),
            "change": change(finding),
            "may move": number(finding.allowed),
            "note": plain(finding.note),
        }
        for finding in verdict.findings
    ]


def summary(verdict: Verdict) -> str:
    """``holds: 5 hold, 1 improved``, or what stands in the way."""
    counts = ", ".join(f"{n} {state}" for state, n in verdict.counts.items())
    return f"{result(verdict)}: {counts or 'the baseline holds no figure'}"


def sentence(finding: Finding) -> str:
    """What happened to one figure: ``top1 66.1, was 68.6: -2.5, may move 1``."""
    text = f"{plain(finding.metric)} {number(finding.now)}"
    if finding.held is not None:
        text += f", was {number(finding.held)}"
    if finding.change is not None and math.isfinite(finding.change):
        text += f": {change(finding)}, may move {number(finding.allowed)}"
    return text + (f"; {plain(finding.note)}" if finding.note else "")


def as_markdown(verdict: Verdict) -> str:
    """The table as a CI system's summary page shows it."""
    lines = rows(verdict)
    out = [f"### mae-bench check: {escape(summary(verdict))}", ""]
    if lines:
        heads = list(lines[0])
        out += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        out += [f"| {' | '.join(escape(line[head]) for head in heads)} |" for line in lines]
    return "\n".join(out) + "\n"


def as_dict(verdict: Verdict) -> dict[str, Any]:
    """Everything, with plain JSON values: null where there is no number."""
    findings = [
        {
            "state": finding.state,
            "cell": finding.cell,
            "metric": finding.metric,
            "baseline": _finite(finding.held),
            "now": _finite(finding.now),
            "std": _finite(finding.std),
            "change": _finite(finding.change),
            "allowed": _finite(finding.allowed),
            "note": finding.note,
        }
        for finding in verdict.findings
    ]
    return {"result": result(verdict), "exit_code": verdict.code, "counts": verdict.counts, "findings": findings}


def number(value: float | None) -> str:
    """Four figures: 68.62, 0.0043, 950.3."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "nan"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def change(finding: Finding) -> str:
    """With its sign; relative to the baseline for what differs by orders of magnitude, such as speeds."""
    moved = finding.change
    if moved is None:
        return MISSING
    if not math.isfinite(moved):
        return "nan"
    text = f"{'+' if moved > 0 else ''}{number(moved)}"
    if moved and finding.held and (abs(finding.held) >= 1e2 or abs(finding.held) < 1):
        text += f" ({100 * moved / abs(finding.held):+.1f} %)"
    return text


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
