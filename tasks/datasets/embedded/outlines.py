"""From a pixel mask to COCO polygons that give exactly that mask back."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage import measure


def polygons(mask: np.ndarray) -> list[list[float]]:
    """COCO ``segmentation`` of an (H, W) bool mask: rings ``[x0, y0, x1, y1, ...]`` in pixels.

    Pixel edges lie at integers. The union of the rings, rasterised as pycocotools does, is the mask. A COCO
    polygon cannot have a hole (and the eyes of an 8 are two), so a part with holes is cut in two where a
    cut goes through most of them, and so on.
    """
    rings: list[list[float]] = []
    for part in _connected_parts(mask):
        holes = _connected_parts(ndimage.binary_fill_holes(part) & ~part)
        if holes:
            cut = _cutting_column(holes)
            left, right = part.copy(), part.copy()
            left[:, cut:] = False
            right[:, :cut] = False
            rings += polygons(left) + polygons(right)
        else:
            rings.append(_ring(part))
    return rings


def _connected_parts(mask: np.ndarray) -> list[np.ndarray]:
    """Parts whose pixels share edges: corners do not connect, since a ring must not touch itself."""
    labels, count = ndimage.label(mask)
    return [labels == label for label in range(1, count + 1)]


def _cutting_column(holes: list[np.ndarray]) -> int:
    """The column that lies in most holes; of several such, the middle one."""
    holes_at = sum(hole.any(axis=0).astype(int) for hole in holes)
    best = np.flatnonzero(holes_at == np.max(holes_at))
    return int(best[len(best) // 2])


def _ring(part: np.ndarray) -> list[float]:
    """Outline of a connected part without holes, half-way between its pixels' centres and those around it."""
    (contour,) = measure.find_contours(np.pad(part, 1).astype(np.float32), 0.5, fully_connected="low")
    # Padding moved it by 1, pixel centres lie at halves: half a pixel off. The last point repeats the first.
    return [float(value) for value in (contour[:-1, ::-1] - 0.5).ravel()]
