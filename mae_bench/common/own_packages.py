"""Whether `tasks` and `backbones` are ours: a `tasks.py` of another project (Celery, Invoke) can come first on the path."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def check_own_packages(root: Path = _ROOT) -> None:
    """Refuses another project's `backbones` or `tasks`; imports neither.

    Raises:
        ImportError: one line that names the file.
    """
    for name in ("backbones", "tasks"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found != root / name / "__init__.py":
            where = found or (spec and next(iter(spec.submodule_search_locations or []), None)) or "nowhere"
            raise ImportError(
                f'mae-bench needs its own package "{name}" ({root / name}), and the import path gives {where}: '
                "run from another folder, or call `mae-bench`, which does not search the current one"
            )
