"""Whether an object's box, mask and area tell of one thing, a row an object. It judges; what follows is `annotations`'.

Tolerances are wider than COCO's own annotations need: there boxes are their masks' to a pixel, and areas to a tenth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.bool_]  # (N,)
Boxes = NDArray[np.float64]  # (N, 4): x, y, width, height

_ROUNDING = 2.0  # pixels by which a box differs from its mask where tools round
_OVERLAP = 0.5  # of box and mask, intersection over union
_SLACK = 4.0  # pixels of area
_THIN = 200  # of a box that is this many times as large as the area in it a mask may be, a pole's across it


def corners_for_sizes(boxes: Boxes, extents: NDArray[np.float64]) -> Rows:
    """Boxes that are the extents of their masks if they are read as left, top, right, bottom, and are not as COCO's."""
    return (_off(boxes, extents) <= _ROUNDING) & (_off(_with_corners(boxes), extents) > 2 * _ROUNDING)


def apart(boxes: Boxes, extents: NDArray[np.float64]) -> Rows:
    """Boxes that have less than half of what they and their masks' extents cover in common."""
    ours = _with_corners(boxes)
    low, high = np.maximum(ours[:, :2], extents[:, :2]), np.minimum(ours[:, 2:], extents[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(boxes[:, 2:], axis=1) + np.prod(extents[:, 2:] - extents[:, :2], axis=1) - common
    return (common < _OVERLAP * union) & (_off(ours, extents) > 2 * _ROUNDING)


def all_corners(boxes: Boxes, images: NDArray[np.float64]) -> bool:
    """Whether all boxes fit their images as left, top, right, bottom, while many reach far out as COCO's.

    Args:
        images: (N, 2) width and height.
    """
    if not (np.all(boxes[:, 2:] > boxes[:, :2]) and np.all(boxes[:, 2:] <= images + _ROUNDING)):
        return False
    over = (boxes[:, :2] + boxes[:, 2:] - images > 0.05 * images).any(axis=1)
    return bool(over.mean() >= 0.25)


def wrong_areas(areas: NDArray[np.float64], boxes: Boxes, masks: NDArray[np.float64]) -> Rows:
    """Areas that are neither their mask's (to a factor of two) nor their box's, which some tools write.

    Args:
        areas: (N,) as given; masks: (N,) areas of the masks, not-a-number where there is none.
    """
    box = np.prod(boxes[:, 2:], axis=1)
    boxlike = (areas >= box / 1.1 - _SLACK) & (areas <= box * 1.1 + _SLACK)
    masklike = (areas >= masks / 2 - _SLACK) & (areas <= masks * 2 + _SLACK)
    within = (areas >= box / _THIN) & (areas <= box * 1.1 + _SLACK)
    return ~(boxlike | np.where(np.isnan(masks), within, masklike))


def _with_corners(boxes: Boxes) -> NDArray[np.float64]:
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _off(box: NDArray[np.float64], extents: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) pixels that the edge which is farthest off is off by; not-a-number without a mask, which no comparison holds for."""
    return np.abs(box - extents).max(axis=1)
