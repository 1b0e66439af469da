"""What probing says of itself: k-NN and a grid of linear heads on the features of a frozen encoder."""

from tasks.spec import Metric, TaskSpec

SPEC = TaskSpec(
    recipe="tasks.probing.config:ProbingRecipe",
    build="tasks.probing.task:ProbingTask",
    protocols=("knn", "probe"),
    metrics=(
        Metric("knn20_top1", headline=True),
        Metric("knn*_top1"),
        Metric("knn*_top5"),
        Metric("top1_best_on_val", headline=True),
        Metric("top1_best_on_train_split", headline=True),
        Metric("held_out_top1_*"),  # of each head, where it is chosen so
        Metric("top1_*"),  # of each head
        Metric("top5_*"),
        Metric("images", unit="images", better="", decimals=0),
    ),
    labelled=True,
    verify="tasks.datasets.verify:verify_recipe",
)
