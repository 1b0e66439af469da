"""Object detection and instance segmentation: Mask R-CNN with the ViTDet head from detectron2, on COCO-layout data.

``config.py`` the recipe's schema; ``model.py`` the detector; ``data.py`` reading and augmentation; ``evaluation.py`` COCO AP;
``task.py`` joins them; ``install.py`` puts detectron2 in place. Only ``config.py`` and ``install.py`` can be imported
without detectron2.
"""
