"""What MAE pre-training says of itself; it evaluates nothing."""

from tasks.spec import TaskSpec

SPEC = TaskSpec(
    recipe="tasks.pretraining.config:PretrainingRecipe",
    build="tasks.pretraining.task:PretrainingTask",
    protocols=("pretrain",),
    suits="tasks.pretraining.suitability:why_not",
    verify="tasks.datasets.verify:verify_recipe",
)
