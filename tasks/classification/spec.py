"""What classification says of itself: fine-tuning, probes on a trained encoder, and test sets of robustness."""

from tasks.spec import Metric, TaskSpec

SPEC = TaskSpec(
    recipe="tasks.classification.config:ClassificationRecipe",
    build="tasks.classification.task:ClassificationTask",
    protocols=("finetune", "scratch", "linear", "attentive", "partial", "robustness"),
    metrics=(
        Metric("top1", headline=True),
        Metric("top5"),
        Metric("loss", unit="", better="lower", decimals=4),
        Metric("original_top1"),
        Metric("inc_error", better="lower"),
        Metric("inc_mce", unit="% of AlexNet's error", better="lower"),  # above 100 of a model worse than AlexNet
        Metric("error.*", better="lower"),  # ImageNet-C, by corruption and severity
        Metric("images", unit="images", better="", decimals=0),
    ),
    labelled=True,
    verify="tasks.datasets.verify:verify_recipe",
)
