"""What the task says of itself; importing it needs no torch."""

from tasks.spec import Metric, TaskSpec

SPEC = TaskSpec(
    recipe="depth_task.config:DepthRecipe",
    build="depth_task.task:DepthTask",
    protocols=("depth",),
    metrics=(Metric("rmse", unit="m", better="lower", decimals=2, headline=True), Metric("delta*")),
)
