"""The one door to mmseg, mmcv and mmengine: what we use of them, imported quietly. Nothing else imports them.

mmengine logs to stdout, which belongs to results: its logger is made here, before anything else can, for errors only.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import nn

from backbones.errors import UserError

try:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # such as mmcv's missing compiled ops, of which UPerNet needs none
        import cv2
        import mmseg.models  # registers what the model's configuration names
        from mmcv.transforms import RandomFlip, RandomResize, Resize, TestTimeAug
        from mmengine.config import ConfigDict
        from mmengine.dataset import Compose, pseudo_collate
        from mmengine.logging import MMLogger
        from mmseg.datasets import ADE20KDataset
        from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, PhotoMetricDistortion, RandomCrop
        from mmseg.evaluation import IoUMetric
        from mmseg.models.data_preprocessor import SegDataPreProcessor
        from mmseg.models.decode_heads import decode_head
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead
        from mmseg.registry import MODELS
except ImportError as e:
    if "libGL" in str(e) or "libgthread" in str(e):
        raise UserError(
            f"OpenCV cannot be imported ({e}): pip install --force-reinstall --no-deps opencv-python-headless"
        ) from e
    raise

cv2.setNumThreads(0)  # data loading is parallel already
MMLogger.get_instance("mmengine", log_level="ERROR")
EncoderDecoder = mmseg.models.EncoderDecoder

__all__ = [
    "MODELS",
    "ADE20KDataset",
    "BaseDecodeHead",
    "Compose",
    "ConfigDict",
    "EncoderDecoder",
    "IoUMetric",
    "LoadAnnotations",
    "PackSegInputs",
    "PhotoMetricDistortion",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "Resize",
    "SegDataPreProcessor",
    "TestTimeAug",
    "mmseg",
    "pseudo_collate",
    "without_values",
]


@contextmanager
def without_values(net: nn.Module) -> Iterator[None]:
    """Losses without what picks pixels by their values: right ones counted for mmseg's log, weights of labels."""
    weighted = [module for module in net.modules() if getattr(module, "class_weight", None) is not None]
    with contextlib.ExitStack() as patched:
        patched.enter_context(patch.object(decode_head, "accuracy", lambda logits, *_, **__: logits.new_zeros(1)))
        for loss in weighted:
            patched.enter_context(patch.object(loss, "class_weight", None))
        yield
