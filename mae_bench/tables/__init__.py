"""The paper's tables, filled from records: `names`, `build`, `render`.

Definitions are data (`definitions/`), so are published figures (`definitions/published.yaml`); neither knows how a figure
came about.
"""

from mae_bench.tables.fill.methods import build, names
from mae_bench.tables.formats.render import FORMATS, render
from mae_bench.tables.table import Table

__all__ = ["FORMATS", "Table", "build", "names", "render"]
