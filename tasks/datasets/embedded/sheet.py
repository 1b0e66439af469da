"""A contact sheet of what lies in a prepared folder, read back from the files: labels, boxes, masks and
maps.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.contact_sheet import Sheet

COLUMNS, TILE = 8, 192
PALETTE = [
    "#000000", "#303030", "#e6194b", "#3cb44b", "#ffe119", "#4363d8",
    "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe",
]  # fmt: skip
"""A colour for each map value, 0 to 11; category i of the json has map value i + 1."""


def contact_sheet(folder: Path, split: str = "val") -> Image.Image:
    """Four rows: single digits with class, scenes, their boxes and polygons, their maps (two rows where
    split is val).
    """
    coco = json.loads((folder / f"coco/annotations/instances_{split}2017.json").read_text(encoding="utf-8"))
    images = coco["images"][:COLUMNS]
    pictures = [folder / f"coco/{split}2017" / image["file_name"] for image in images]
    ade_split = {"train": "training", "val": "validation"}[split]
    maps = sorted((folder / "ADEChallengeData2016/annotations" / ade_split).glob("*.png"))[:COLUMNS]
    rows = [
        (f"imagenet/{split}: class", _single_digits(folder / "imagenet" / split)),
        (f"coco/{split}2017: picture", [_enlarged(Image.open(path)) for path in pictures]),
        (
            "boxes and polygons",
            [_annotated(*pair, coco) for pair in zip(pictures, images, strict=True)],
        ),
        ("ADE annotation map", [_coloured_map(path) for path in maps]),
    ]
    sheet = Sheet([""] * COLUMNS, panel=TILE)
    for title, tiles in rows:
        sheet.add(title, [np.asarray(tile) for tile in tiles])
    return sheet.draw()


def _enlarged(image: Image.Image) -> Image.Image:
    return image.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)


def _single_digits(folder: Path) -> list[Image.Image]:
    tiles = []
    for class_folder in sorted(folder.iterdir())[:COLUMNS]:
        tile = _enlarged(Image.open(min(class_folder.iterdir())))
        ImageDraw.Draw(tile).text((4, 2), class_folder.name, fill="red", font=ImageFont.load_default(28))
        tiles.append(tile)
    return tiles


def _annotated(path: Path, image: dict, coco: dict) -> Image.Image:
    tile = _enlarged(Image.open(path))
    scale = TILE / Image.open(path).width
    names = {category["id"]: category["name"] for category in coco["categories"]}
    draw = ImageDraw.Draw(tile)
    for annotation in (a for a in coco["annotations"] if a["image_id"] == image["id"]):
        colour = PALETTE[annotation["category_id"] + 1]
        for ring in annotation["segmentation"]:
            draw.polygon([scale * value for value in ring], outline=colour, width=2)
        left, top, width, height = (scale * value for value in annotation["bbox"])
        draw.rectangle((left, top, left + width, top + height), outline=colour)
        draw.text((left + 3, top), names[annotation["category_id"]], fill=colour, font=ImageFont.load_default(20))
    return tile


def _coloured_map(path: Path) -> Image.Image:
    image = Image.open(path)
    image.putpalette([channel for colour in PALETTE for channel in bytes.fromhex(colour[1:])])
    return _enlarged(image)
