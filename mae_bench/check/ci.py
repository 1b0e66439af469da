"""A verdict for CI systems: JUnit XML, which most of them read, and GitHub's annotations and summary page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from mae_bench.check import show
from mae_bench.check.compare import Finding, Verdict
from mae_bench.common.text import plain

_LIMIT = 10  # GitHub shows so many annotations of a kind a step


def junit(verdict: Verdict) -> bytes:
    """A test case a figure: a regression is a failure, what could not be compared an error."""
    counts = verdict.counts
    suite = ElementTree.Element(
        "testsuite",
        name="mae-bench check",
        tests=str(len(verdict.findings)),
        failures=str(counts.get("regressed", 0)),
        errors=str(counts.get("not compared", 0)),
        skipped=str(counts.get("skipped", 0) + counts.get("new", 0)),
    )
    for finding in verdict.findings:
        case = ElementTree.SubElement(suite, "testcase", classname=plain(finding.cell), name=plain(finding.metric))
        text = show.sentence(finding)
        tag = {"regressed": "failure", "not compared": "error", "skipped": "skipped", "new": "skipped"}.get(
            finding.state
        )
        if tag is None:
            ElementTree.SubElement(case, "system-out").text = f"{finding.state}: {text}"
        else:
            ElementTree.SubElement(case, tag, message=text)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def github(verdict: Verdict, baseline: Path, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Workflow commands that put each regression at its line of the baseline file."""
    place = _in_repository(baseline, environment)
    lines = []
    for state, level in (("regressed", "error"), ("not compared", "error"), ("improved", "notice")):
        found = [finding for finding in verdict.findings if finding.state == state]
        lines += [_annotation(level, finding, place) for finding in found[:_LIMIT]]
        if len(found) > _LIMIT:
            lines.append(f"::{level} title={_property(f'mae-bench: {state}')}::{len(found) - _LIMIT} more {state}")
    return lines


def write_summary(verdict: Verdict, environment: Mapping[str, str] = os.environ) -> None:
    """Adds the table to the page of the workflow's run, where GitHub names a file for it."""
    target = environment.get("GITHUB_STEP_SUMMARY")
    if target:
        with open(target, "a", encoding="utf-8") as file:
            file.write(show.as_markdown(verdict))


def _annotation(level: str, finding: Finding, place: str) -> str:
    title = f"mae-bench: {finding.state}: {plain(finding.cell)}"
    properties = {"file": place, "line": str(max(1, finding.line)), "title": title}
    return f"::{level} {','.join(_properties(properties))}::{_data(show.sentence(finding))}"


def _properties(values: Mapping[str, str]) -> Iterable[str]:
    return (f"{key}={_property(value)}" for key, value in values.items())


def _data(text: str) -> str:
    """As GitHub's toolkit escapes a message (`escapeData` in actions/toolkit, packages/core/src/command.ts)."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """As it escapes a property (`escapeProperty` there): `:` and `,` end one."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _in_repository(path: Path, environment: Mapping[str, str]) -> str:
    """Relative to the checkout: else GitHub does not find the file."""
    root = Path(environment.get("GITHUB_WORKSPACE") or ".").resolve()
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
