"""How things stop: a user's mistake, a run that failed, a run that was interrupted; and the wording of "unknown name"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in what the user gave: its text is one line that names the file, field or flag and the way out.

    The command line prints it without a traceback (``--debug`` shows one) and exits with 2.
    """


class RunFailed(UserError):
    """A run had to stop though what the user gave was right: a full disk, a dead data worker, a loss that stays not finite.

    Its text is one line too; the command line exits with 1.
    """


class Interrupted(BaseException):
    """A run left before its end with everything saved: the same command goes on from there. Exit code 75.

    As KeyboardInterrupt it is no Exception: raised by a signal inside a library, it passes what that makes of its errors.
    """


def no_folder(said: str, path: Path) -> UserError:
    """``--runs x: no such folder``, where `said` is how it was asked for; of a file that it is one."""
    return UserError(f"{said}: {'a file: give the folder of the run' if path.exists() else 'no such folder'}")


def unknown(kind: str, name: str, options: Iterable[str], *, where: str = "") -> UserError:
    """``unknown recipe "x": did you mean "y"?`` with the nearest of `options`, or all of them when none is near.

    Of a name without its folder all that end so are named: the nearest by spelling may be another folder's.
    """
    known = sorted(options)
    folders = [f'"{option}"' for option in known if option.endswith(f"/{name}")] if name else []
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known) or 'none'}"
    if folders:
        hint = f"did you mean {' or '.join(folders)}?"
    place = f" in {where}" if where else ""
    return UserError(f'unknown {kind} "{name}"{place}: {hint}')


def some(names: Iterable[str], most: int) -> str:
    """The first `most` of the names and how many more there are: ``a, b and 3 more``; "nothing" where there are none."""
    names = list(names)
    rest = len(names) - most
    return (", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")) or "nothing"
