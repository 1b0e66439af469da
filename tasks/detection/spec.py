"""What detection says of itself: COCOeval's figures of boxes and masks, and AP of each class."""

from tasks.spec import Metric, TaskSpec

SPEC = TaskSpec(
    recipe="tasks.detection.config:DetectionRecipe",
    build="tasks.detection.task:DetectionTask",
    protocols=("detection", "detection_fpn", "lvis"),
    metrics=(
        Metric("box_ap", headline=True),
        Metric("mask_ap", headline=True),
        Metric("box_*"),  # AP at IoU thresholds and sizes, AR, ``box_ap.CLASS``
        Metric("mask_*"),
    ),
    extra="detection",
    needs=("detectron2", "pycocotools"),
    install="pip install 'mae-bench[detection]', then mae-bench setup detectron2",
    verify="tasks.detection.verify:verify",
)
