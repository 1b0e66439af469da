"""Object detection and instance segmentation: Mask R-CNN with the ViTDet head from detectron2, on COCO-layout data.

``config.py`` the recipe's schema; ``model.py`` the detector; ``data.py`` reading and augmentation; ``evaluation.py``
COCO AP; ``task.py`` joins them; ``install.py`` puts detectron2 in place. Only ``config.py`` and ``install.py`` can be
imported without detectron2.
"""

import logging
import warnings

# detectron2 on a new torch warns on import and on its first forward, about things that users cannot mend.
warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=FutureWarning)
warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=DeprecationWarning)
warnings.filterwarnings("ignore", message=".*torch.meshgrid: in an upcoming release", category=UserWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
