"""The paper's tables, filled from records: `names`, `build`, `render`.

Definitions are data (`definitions.py`), so are published figures (`mae_bench/published.yaml`); neither knows
how a figure came about.
"""

from mae_bench.tables.build import build, names
from mae_bench.tables.model import Table
from mae_bench.tables.render import FORMATS, render

__all__ = ["FORMATS", "Table", "build", "names", "render"]
