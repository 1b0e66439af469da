"""What semantic segmentation says of itself: mmseg's figures, and IoU of each class."""

from tasks.spec import Metric, TaskSpec

SPEC = TaskSpec(
    recipe="tasks.segmentation.config:SegmentationRecipe",
    build="tasks.segmentation.task:SegmentationTask",
    protocols=("segmentation", "segmentation_frozen"),
    metrics=(
        Metric("mIoU", headline=True),
        Metric("aAcc"),
        Metric("mAcc"),
        Metric("IoU.*"),
    ),
    extra="segmentation",
    needs=("mmseg", "mmengine", "mmcv"),
    verify="tasks.segmentation.verify:verify",
)
