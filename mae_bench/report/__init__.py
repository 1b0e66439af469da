"""`mae-bench report`: everything under a folder of runs as one HTML file that needs nothing else, no network either.

`contents` collects, `bars`, `overlays` and `curves` draw, `pictures` and `own_tables` choose, `caution` says what a
reader must know, `page` renders.
No figure is computed here: tables are `mae_bench.tables`', means over seeds `mae_bench.records.groups`'.
"""

from mae_bench.report.page import write_report

__all__ = ["write_report"]
