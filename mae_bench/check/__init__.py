"""`mae-bench check`: do these runs still reach what a baseline file says? For CI systems that gate on a regression.

`cells` groups records, `baseline` reads and writes the file, `compare` judges, `show` and `ci` say so. Published figures play
no part here: a baseline is what this machine, or this team, measured before.
"""

from mae_bench.check.baseline import Baseline, load, update
from mae_bench.check.compare import Finding, Verdict, compare
from mae_bench.records.groups import RunGroup, group_runs

__all__ = ["Baseline", "Finding", "RunGroup", "Verdict", "compare", "group_runs", "load", "update"]
