"""A built table as lines of plain text cells, the same for every format that is read by people; nothing is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mae_bench.tables.table import TOLERANCE_STDS, Cell, Measured, Row, Table
from tasks.spec import MISSING, in_decimals

DEFAULT = "†"
WIDTH = 100  # characters; a table that is wider is broken into blocks of columns
Grid = list[list[str]]


def grid(table: Table) -> Grid:
    """Header and lines: published, ours, difference, tolerance below each other, or of what is varied a line a row."""
    return (_ablation_grid if table.factor else _method_grid)(table)


def notes(table: Table) -> list[str]:
    """What is said below a table and its parts: marks, notes, tolerance."""
    parts = table.parts or (table,)
    cells = [cell for part in parts for row in part.rows for cell in row.cells]
    found = [f"{DEFAULT} the paper's default"] if any(row.default for part in parts for row in part.rows) else []
    found += dict.fromkeys(note for part in parts for note in part.notes)
    return [*found, *_tolerance_notes(cells)]


def sources(table: Table) -> dict[str, str]:
    """Source -> what it is, of a table and its parts."""
    return {key: text for part in table.parts or (table,) for key, text in part.sources.items()}


def _tolerance_notes(cells: Sequence[Cell]) -> Iterable[str]:
    compared = [cell for cell in cells if cell.difference is not None]
    if any(cell.tolerance is not None for cell in compared):
        yield f"tolerance: {TOLERANCE_STDS} standard deviations over the official seeds"
    if any(cell.tolerance is None for cell in compared):
        which = "the other differences" if any(cell.tolerance is not None for cell in compared) else "the differences"
        yield f"no tolerance published for {which}: their sources give no spread over seeds"


def _method_grid(table: Table) -> Grid:
    body = [([row.subject] if table.subject else []) + line for row in table.rows for line in _lines(row, table)]
    subject = [table.subject] if table.subject else []
    return [[*subject, "method", "figure", *(column.heading for column in table.columns)], *body]


def _ablation_grid(table: Table) -> Grid:
    """As the paper prints its ablations; ours follows the published figure where they can be compared."""
    body = [
        [
            f"{row.method} {DEFAULT}" if row.default else row.method,
            *(_compact(cell, column.unit) for cell, column in zip(row.cells, table.columns, strict=True)),
        ]
        for row in table.rows
    ]
    return [[table.factor, *(column.heading for column in table.columns)], *body]


def _compact(cell: Cell, unit: str) -> str:
    """``84.9``, or ``84.9 / ours 84.7 (-0.2)``."""
    ours = with_unit(measured(cell.ours, cell.decimals), unit)
    if cell.published is None:
        return ours
    published = with_unit(in_decimals(cell.published, cell.decimals), unit)
    if cell.ours is None:
        return published
    difference = in_decimals(cell.difference, cell.decimals, signed=True)
    if cell.within is not None:
        difference += f", {verdict(cell)}"
    return f"{published} / ours {ours} ({difference})"


def with_unit(text: str, unit: str) -> str:
    """The unit behind a figure; none behind the mark of a missing one."""
    return text if text == MISSING else f"{text}{unit}"


def verdict(cell: Cell) -> str:
    """``within``, ``outside``, or the mark of what is missing."""
    return MISSING if cell.within is None else "within" if cell.within else "outside"


def _lines(row: Row, table: Table) -> Grid:
    cells = list(zip(row.cells, (column.unit for column in table.columns), strict=True))
    lines = []
    if any(cell.published is not None for cell in row.cells):
        lines.append(
            [row.method, "published", *(with_unit(in_decimals(c.published, c.decimals), unit) for c, unit in cells)]
        )
    if any(cell.ours for cell in row.cells):
        lines.append([row.method, "ours", *(with_unit(measured(c.ours, c.decimals), unit) for c, unit in cells)])
    if any(cell.difference is not None for cell in row.cells):
        lines.append(
            [row.method, "difference", *(in_decimals(c.difference, c.decimals, signed=True) for c, _ in cells)]
        )
    if any(cell.within is not None for cell in row.cells):
        tolerances = (
            f"{verdict(c)} ±{finer(c.tolerance, c.decimals)}" if c.within is not None else MISSING for c, _ in cells
        )
        lines.append([row.method, "tolerance", *tolerances])
    return lines


def finer(value: float | None, decimals: int | None) -> str:
    """A spread or tolerance, with a decimal more than its figure has."""
    return in_decimals(value, None if decimals is None else decimals + 1)


def measured(ours: Measured | None, decimals: int | None = 1) -> str:
    """``83.5 ± 0.2 (n=3)``, ``83.5 ± 0.08 (n=3)``; the figure alone of a single run, or where the seed changes nothing."""
    if ours is None:
        return MISSING
    if ours.std is None or len(set(ours.values)) == 1:
        return in_decimals(ours.mean, decimals)
    # The official seeds' spread is below 0.1: what would round to a single digit or none has one more.
    small = decimals is not None and 5 / 10 ** (decimals + 2) <= ours.std < 95 / 10 ** (decimals + 2)
    std = finer(ours.std, decimals) if small else in_decimals(ours.std, decimals)
    return f"{in_decimals(ours.mean, decimals)} ± {std} (n={ours.n})"


def stubs(table: Table) -> int:
    """How many columns at the left name the row."""
    if table.factor:
        return 1
    return 3 if table.subject else 2


def blocks(table: Table, lines: Sequence[Sequence[str]], width: int | None = None) -> list[Grid]:
    """The lines of the whole table if `width` (default WIDTH) allows, else blocks of columns, the paper's apart from ours.

    In a block lines without any figure are left out.
    """
    left = stubs(table)
    found = []
    for columns in _columns(table, lines, width or WIDTH):
        header, *body = [[line[i] for i in columns] for line in lines]
        found.append([header, *(line for line in body if any(text != MISSING for text in line[left:]))])
    return found


def _columns(table: Table, lines: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    widths = [max(len(line[i]) for line in lines) + 3 for i in range(len(lines[0]))]
    if sum(widths) + 1 <= width:
        return [list(range(len(widths)))]
    left = stubs(table)
    names = list(range(left))
    room = width - 1 - sum(widths[:left])
    found: list[list[int]] = []
    for ours in (False, True):
        columns = [i for i, column in enumerate(table.columns, start=left) if column.in_paper != ours]
        found += [[*names, *part] for part in _parts(columns, widths, room)]
    return found


def _parts(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns in as few parts as there is room for, each of as many columns if that is possible."""
    parts: list[list[int]] = []
    for i in columns:
        if not parts or sum(widths[j] for j in [*parts[-1], i]) > room:
            parts.append([])
        parts[-1].append(i)
    each = -(-len(columns) // len(parts)) if parts else 0
    even = [list(columns[k : k + each]) for k in range(0, len(columns), each or 1)]
    return even if all(len(part) == 1 or sum(widths[j] for j in part) <= room for part in even) else parts
