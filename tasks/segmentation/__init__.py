"""Semantic segmentation: UPerNet on the encoder, with mmseg's heads, pipeline and IoU metric, driven by our loop.

``config.py`` the recipe's section (needs no mmseg); ``mm.py`` the one door to mmseg; ``model.py`` the network;
``data.py`` folders of images and maps; ``evaluation.py`` mIoU; ``task.py`` joins them up for the engine.
"""
