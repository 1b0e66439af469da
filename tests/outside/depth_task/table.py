"""The table of the task's runs."""

from mae_bench.tables.definitions.data_sets import DataSet
from mae_bench.tables.definitions.schema import Definition, Method, TableMetric

DEPTH = Definition(
    name="depth",
    title="Depth of drawn rooms, RMSE (m)",
    task="depth",
    protocols=("depth",),
    data=DataSet("rooms", "Rooms", train_count=16, val_count=8),
    metrics=(TableMetric("rmse"),),
    columns=(),
    methods=(Method("scratch"), Method("MAE")),
)
