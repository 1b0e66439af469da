"""``mae-bench`` and ``python -m mae_bench`` (for torchrun: ``torchrun --nproc_per_node 2 -m mae_bench run …``).

Launchers start their processes by this file's path: Python then puts this folder on the import path in place of the current
one, on every version, and what lies in the current folder (a ``tasks.py``) is not imported by mistake.
"""

import sys
from pathlib import Path


def _search_beside_the_package() -> None:
    """Started by path: not this folder is searched but the one that it lies in, where that is not searched anyway."""
    here = Path(__file__).resolve().parent
    if sys.path and Path(sys.path[0]).resolve() == here:
        del sys.path[0]
    if str(here.parent) not in sys.path:
        sys.path.insert(0, str(here.parent))


def main() -> None:
    """Entry point."""
    from mae_bench.common.own_packages import check_own_packages

    try:
        check_own_packages()
    except ImportError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    from mae_bench.cli.main import main as run

    run()


if __name__ == "__main__":
    if not __package__:
        _search_beside_the_package()
    main()
