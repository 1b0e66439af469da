"""The one error type for mistakes that a user can mend, and the wording of "unknown name" messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: its text is one line that names the file, field or flag and the way out.

    The command line prints it without a traceback (``--debug`` shows one) and exits with 2.
    """


def unknown(kind: str, name: str, options: Iterable[str], *, where: str = "") -> UserError:
    """``unknown recipe "x": did you mean "y"?`` with the nearest of `options`, or all of them when none is near."""
    known = sorted(options)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known) or 'none'}"
    place = f" in {where}" if where else ""
    return UserError(f'unknown {kind} "{name}"{place}: {hint}')
