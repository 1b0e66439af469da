"""The books of a data set: whatever a reader found is used, or left out for a reason; found = used + left out.

A reader of any layout fills an `Account` a split: `found` as it lists, `use` and `leave_out` as it decides. Whoever opens the
split calls `settle`, which refuses what makes figures doubtful unless the user allows it by name (``data.allow``). The account
goes into the record (`to_json`), into `mae-bench data verify` (`lines`) and, where much was left out, below tables (`notes`).
What the samples themselves tell, whatever layout they come from, is `tasks.datasets.manifest`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backbones.errors import UserError, unknown

KEPT_EXAMPLES = 3  # a reason names so many of the things that it left out


@dataclass(frozen=True)
class Reason:
    """Why something was left out. A doubtful one stops a run until the user allows it by name.

    Attributes:
        text: what stands after a count and the kind, such as "3 files *without a label*".
        remedy: what to do instead of allowing it.
        foreign: no sample was lost by it, so that tables need not tell.
    """

    text: str
    doubtful: bool = False
    remedy: str = ""
    foreign: bool = False


REASONS: dict[str, Reason] = {
    # Said, and no more: nobody meant these to be images, or they are there once more.
    "hidden": Reason("hidden, or a tool's own", foreign=True),
    "not_image": Reason("not images", foreign=True),
    "not_a_file": Reason("neither files nor folders", foreign=True),
    "link_loop": Reason("links back to a folder above", foreign=True),
    "replaced": Reason("replaced by a later one of the same name", foreign=True),
    "other_view": Reason("beside the image of their sample", foreign=True),
    "beside": Reason("beside image and label", foreign=True),
    "other_split": Reason("of other splits", foreign=True),
    "not_chosen": Reason("not asked for by the recipe", foreign=True),
    "crowd": Reason("of crowds", foreign=True),
    "empty_image": Reason("without objects"),
    "absent": Reason("without a labelled object or pixel", foreign=True),
    "no_mask": Reason("without a polygon of three points"),
    "unlisted": Reason("of images that are not listed"),
    # Doubtful: figures on what is left would be of another data set.
    "unreadable": Reason("unreadable", True, "replace them"),
    "unknown_format": Reason("in an unsupported format", True, "convert them to JPEG or PNG"),
    "no_label": Reason("without a label", True, "give them one"),
    "no_partner": Reason("without a partner", True, "complete the pairs"),
    "duplicate": Reason("found twice", True, "remove one"),
    "missing": Reason("named but not there", True, "complete the download"),
    "outside": Reason(
        "outside the data folder", True, "move them into it, read them with --set data.options.outside=true"
    ),
    "broken": Reason("malformed", True, "mend the file"),
}


_NO_NEWS = ("not_chosen", "beside")  # what was asked for, and what belongs there


def check_allowed(allow: Iterable[str], extra: Collection[str] = ()) -> frozenset[str]:
    """``data.allow`` as a set.

    Args:
        extra: names that other checks than an account's take (`tasks.datasets.manifest.CHECKS`).

    Raises:
        UserError: a name that stops nothing.
    """
    names = {name for name, reason in REASONS.items() if reason.doubtful} | set(extra)
    for name in allow:
        if name not in names:
            raise unknown("reason", name, names, where="data.allow")
    return frozenset(allow)


@dataclass
class LeftOut:
    """How many things a reason left out, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Books:
    """The account of one kind of thing."""

    found: int = 0
    used: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    @property
    def missed(self) -> int:
        """How many were left out."""
        return sum(entry.count for entry in self.left_out.values())


class Account:
    """What was found of one split, by kind: ``files``, ``members`` (of archives), ``rows``, ``images``, ``annotations``, …

    ``account.found("files", 3)``, ``account.use("files")``, ``account.leave_out("files", "hidden", "train/.DS_Store")``.
    """

    def __init__(self) -> None:
        self.kinds: dict[str, Books] = {}

    def found(self, kind: str, count: int = 1) -> None:
        """`count` more of `kind` were listed."""
        self._books(kind).found += count

    def use(self, kind: str, count: int = 1) -> None:
        """`count` more of `kind` are used: of those that were found."""
        self._books(kind).used += count

    def leave_out(self, kind: str, reason: str, place: object, count: int = 1) -> None:
        """`count` more of `kind` are left out for a reason of `REASONS`; `place` is the first of them."""
        assert reason in REASONS, reason
        entry = self._books(kind).left_out.setdefault(reason, LeftOut())
        entry.count += count
        if len(entry.examples) < KEPT_EXAMPLES:
            entry.examples.append(printable(str(place)))

    def give_up(self, kind: str, reason: str, place: object, count: int = 1) -> None:
        """`count` that were used are left out after all: an image whose bytes turn out to be none."""
        self._books(kind).used -= count
        self.leave_out(kind, reason, place, count)

    def check(self) -> None:
        """Raises AssertionError where found = used + left out does not hold: a reader's mistake, not the user's."""
        for kind, books in self.kinds.items():
            if books.found != books.used + books.missed:
                raise AssertionError(
                    f"the account of {kind} does not balance: {books.found} found, {books.used} used, {books.missed} left out"
                )

    def settle(self, where: object, allow: Collection[str] = ()) -> None:
        """`check`, and refuses doubtful reasons that the user did not allow.

        Args:
            where: the split, for messages.
            allow: names of reasons (`check_allowed`).

        Raises:
            UserError: such a reason; the first thing that it left out is named, and the way out.
        """
        self.check()
        for kind, books in self.kinds.items():
            for name, entry in books.left_out.items():
                if REASONS[name].doubtful and name not in allow:
                    raise UserError(refusal(where, kind, name, entry, books.found))

    def doubts(self, where: object = "") -> list[str]:
        """What `settle` would refuse with nothing allowed, a line each."""
        return [
            refusal(where, kind, name, entry, books.found)
            for kind, books in self.kinds.items()
            for name, entry in books.left_out.items()
            if REASONS[name].doubtful
        ]

    def notes(self, split: str, but: Collection[str] = ()) -> list[str]:
        """A note for the record and for stderr on each reason: kind, count, first example. What was asked for needs none.

        Args:
            but: reasons that need no note of their own.
        """
        return [
            f"{split}: left out {entry.count:,} of {books.found:,} {kind} ({REASONS[name].text}): {_examples(entry, 1)}"
            for kind, books in self.kinds.items()
            for name, entry in books.left_out.items()
            if name not in {*_NO_NEWS, *but}
        ]

    def lines(self) -> list[str]:
        """The account whole, for people: a line a kind, and an indented one a reason."""
        width = max(map(len, self.kinds), default=0)
        told = []
        for kind, books in self.kinds.items():
            told.append(f"{kind.ljust(width)}  {books.found:,} found = {books.used:,} used + {books.missed:,} left out")
            for name, entry in books.left_out.items():
                doubt = f" [{name}]" if REASONS[name].doubtful else ""
                told.append(f"{' ' * width}  {entry.count:,} {REASONS[name].text}{doubt}: {_examples(entry)}")
        return told

    def to_json(self) -> dict[str, Any]:
        """As it stands in a record: kind -> found, used, and left_out: reason -> count, examples."""
        return {
            kind: {
                "found": books.found,
                "used": books.used,
                "left_out": {
                    name: {"count": entry.count, "examples": list(entry.examples)}
                    for name, entry in books.left_out.items()
                },
            }
            for kind, books in self.kinds.items()
        }

    def add(self, other: Account) -> None:
        """Takes over another account: parts of one split."""
        for kind, books in other.kinds.items():
            self.found(kind, books.found)
            self.use(kind, books.used)
            for name, entry in books.left_out.items():
                self.leave_out(kind, name, entry.examples[0], entry.count)

    def _books(self, kind: str) -> Books:
        return self.kinds.setdefault(kind, Books())


def printable(text: str) -> str:
    """`text` with control characters, and bytes of a name that are no UTF-8, as escapes: ``\\x1b``, ``\\xff``."""
    try:
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, as JSON may hold it
        text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def summary(account: Mapping[str, Any]) -> str:
    """A record's ``data.account`` in a line: ``train 14 files = 12 used + 2 left out (2 hidden); val 6 files = …``."""
    return "; ".join(
        f"{split} {', '.join(_summary(kind, books) for kind, books in kinds.items())}"
        for split, kinds in account.items()
    )


def _summary(kind: str, books: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{entry['count']:,} {name}" for name, entry in books["left_out"].items())
    left_out = books["found"] - books["used"]
    return f"{books['found']:,} {kind} = {books['used']:,} used + {left_out:,} left out" + (
        f" ({reasons})" if reasons else ""
    )


def share_left_out(account: Mapping[str, Any]) -> float:
    """The greatest share of samples lost, over splits and kinds of a record's ``data.account``: 0.02 for 2 of 100."""
    shares = [
        sum(entry["count"] for name, entry in books["left_out"].items() if not REASONS.get(name, _UNKNOWN).foreign)
        / books["found"]
        for kinds in account.values()
        for books in kinds.values()
        if books["found"]
    ]
    return max(shares, default=0.0)


def refusal(where: object, kind: str, name: str, entry: LeftOut, found: int) -> str:
    """The line that a doubtful reason stops a run with."""
    reason = REASONS[name]
    place = f"{where}: " if str(where) else ""
    return (
        f"{place}{entry.count:,} of {found:,} {kind} {reason.text}: {_examples(entry)}: {reason.remedy}, or leave "
        f"them out with --set data.allow=[{name}]"
    )


_UNKNOWN = Reason("")  # of a record that another version wrote


def _examples(entry: LeftOut, most: int = KEPT_EXAMPLES) -> str:
    named = ", ".join(entry.examples[:most])
    return named if entry.count <= most else f"{named}, …"
