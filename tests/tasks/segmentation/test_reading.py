"""Images and maps in every format that users have: read as meant, or refused in one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg")

from backbones.errors import UserError
from tasks.segmentation import data, folders
from tasks.segmentation.classes import class_names
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.reading import read_image, read_labels, to_classes

CONFIG = SegmentationConfig(resize_scale=[64, 32])
CLASSES = 3
LABELS = np.kron(np.array([[1, 2], [3, 1]], np.uint8), np.ones((20, 24), np.uint8))  # 40 x 48
PICTURE = np.kron(np.array([[[250, 0, 0], [0, 250, 0]]], np.uint8), np.ones((40, 24, 1), np.uint8))


def pair(folder: Path, image: Image.Image, labels: Image.Image, suffix: str = ".png", **options: Any) -> folders.Pair:
    image.save(folder / f"image{suffix}", **options)
    labels.save(folder / "map.png")
    return folders.Pair(folder / f"image{suffix}", folder / "map.png")


def sample(one: folders.Pair, config: SegmentationConfig = CONFIG, classes: int = CLASSES) -> tuple[Any, np.ndarray]:
    """Image (3, H, W) and classes (H, W) as validation sees them."""
    packed = data.val_dataset([one], config, classes)[0]
    return packed["inputs"], packed["data_samples"].gt_sem_seg.data[0].numpy()


def test_palette_maps_hold_indices_not_colours(tmp_path: Path) -> None:
    labels = Image.fromarray(LABELS, mode="P")
    labels.putpalette([200, 10, 10] * 256)
    assert np.array_equal(sample(pair(tmp_path, Image.fromarray(PICTURE), labels))[1], LABELS - 1)


def test_16_bit_maps_are_read_and_65535_is_unlabelled(tmp_path: Path) -> None:
    wide = LABELS.astype(np.uint16)
    wide[0, 0] = 65535
    labels = sample(pair(tmp_path, Image.fromarray(PICTURE), Image.fromarray(wide)))[1]
    assert labels[0, 0] == 255
    assert np.array_equal(labels[1:], LABELS[1:] - 1)


@pytest.mark.parametrize("label", [257, 300, 65534])
def test_a_16_bit_label_beyond_the_classes_is_named_not_taken_modulo_256(tmp_path: Path, label: int) -> None:
    one = pair(tmp_path, Image.fromarray(PICTURE), Image.fromarray(np.full((40, 48), label, np.uint16)))
    with pytest.raises(UserError, match=rf"map.png holds label {label}, but 3 classes allow labels up to 3"):
        sample(one)


def test_a_map_of_four_bits_keeps_its_levels(tmp_path: Path) -> None:
    """Pillow stretches them to 0..255 on reading; it writes none, so this file is made by hand (PNG, section 11.2)."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(16 * row[i] + row[i + 1] for i in range(0, 48, 2)) for row in LABELS.tolist())
    header = struct.pack(">IIBBBBB", 48, 40, 4, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "map.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert np.array_equal(read_labels(tmp_path / "map.png"), LABELS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK"])
def test_maps_of_colours_are_refused(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("map.tif" if mode == "CMYK" else "map.png")
    Image.new(mode, (48, 40)).save(file)
    with pytest.raises(
        UserError, match=rf"{file.name}: a map must be one channel of 8-bit labels, this file is {mode}"
    ):
        read_labels(file)


def test_255_is_unlabelled_and_0_a_class_where_zero_is_not_reduced(tmp_path: Path) -> None:
    labels = LABELS - 1
    labels[5, 5] = 255
    config = SegmentationConfig(resize_scale=[64, 32], reduce_zero_label=False)
    one = pair(tmp_path, Image.fromarray(PICTURE), Image.fromarray(labels))
    assert np.array_equal(sample(one, config)[1], labels)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".png"), ("CMYK", ".jpg"), ("RGBA", ".png"), ("P", ".png"), ("LA", ".png")]
)
def test_grey_cmyk_transparent_and_palette_images_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    one = pair(tmp_path, image, Image.fromarray(LABELS), suffix)
    assert sample(one)[0].shape == (3, 32, 38)
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(read_image(one.image) - expected).mean() < 6  # a JPEG loses some


def test_16_bit_images_keep_their_upper_byte(tmp_path: Path) -> None:
    """Pillow's own conversion clips at 255: nearly everything would be white."""
    grey = np.linspace(0, 65535, 40 * 48).reshape(40, 48).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png")[..., 0], grey >> 8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_exif_turns_the_image(tmp_path: Path) -> None:
    lying = Image.fromarray(PICTURE).transpose(Image.Transpose.ROTATE_90)  # 40 wide, 48 high
    one = pair(tmp_path, lying, Image.fromarray(LABELS), ".jpg", exif=exif(6), quality=95)
    assert read_image(one.image).shape == (40, 48, 3)
    assert np.abs(read_image(one.image).astype(int) - PICTURE).mean() < 10
    assert sample(one)[1].shape == (40, 48)


def test_a_map_that_lies_as_the_file_and_not_as_the_image_is_explained(tmp_path: Path) -> None:
    one = pair(tmp_path, Image.fromarray(PICTURE), Image.fromarray(LABELS), ".jpg", exif=exif(6))
    with pytest.raises(UserError, match=r"map.png is 48x40 pixels and its image 40x48: the image's EXIF tag turns it"):
        sample(one)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (200, 2)])
def test_images_smaller_than_a_patch_train_and_validate(tmp_path: Path, size: tuple[int, int]) -> None:
    one = pair(tmp_path, Image.new("RGB", size), Image.new("L", size, 2))
    image, labels = sample(one)
    assert min(image.shape) >= 1
    assert labels.shape == size[::-1]
    for ratio in (0.5, 2.0):  # at half the size the third has no whole row
        config = SegmentationConfig(resize_scale=[64, 32], resize_ratio=[ratio, ratio])
        trained = data.train_dataset([one], config, 32, CLASSES, cache=False)[0]
        assert max(trained["inputs"].shape[1:]) <= 32
        assert trained["data_samples"].gt_sem_seg.data.shape[1:] == trained["inputs"].shape[1:]


def test_images_of_several_suffixes_lie_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "maps" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "sub").mkdir()
    for name in ("a.jpg", "b.JPEG", "c.png", "sub/d.webp"):
        Image.fromarray(PICTURE).save(tmp_path / "images" / name)
        Image.fromarray(LABELS).save((tmp_path / "maps" / name).with_suffix(".png"))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "._a.jpg").write_bytes(b"macOS")
    found = folders.find_pairs(tmp_path, "images", "maps", CONFIG).pairs
    assert [one.image.name for one in found] == ["a.jpg", "b.JPEG", "c.png", "d.webp"]
    only = folders.find_pairs(tmp_path, "images", "maps", SegmentationConfig(image_suffix=".png"), {"no_partner"}).pairs
    assert [one.image.name for one in only] == ["c.png"]


def test_two_images_that_would_share_a_map_are_named(tmp_path: Path) -> None:
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    for name in ("a.jpg", "a.png"):
        Image.fromarray(PICTURE).save(tmp_path / "images" / name)
    with pytest.raises(UserError, match=r"a.jpg and a.png would share the map a.png"):
        folders.find_pairs(tmp_path, "images", "maps", CONFIG)


def test_class_lists_that_cannot_be_meant_are_named(tmp_path: Path) -> None:
    listing = tmp_path / "classes.txt"
    for content, complaint in (
        ("sky\nsea\nsky\n", "names 'sky' twice"),
        ("\n".join(map(str, range(256))), "names 256 classes"),
        ("\n\n", "is empty"),
    ):
        listing.write_text(content)
        with pytest.raises(UserError, match=rf"classes.txt.*{complaint}"):
            class_names(tmp_path, "mine", CONFIG)
    listing.write_bytes("b\xe4r\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        class_names(tmp_path, "mine", CONFIG)


@pytest.mark.parametrize("reduced", [True, False])
def test_minus_1_is_unlabelled_and_what_lies_below_is_refused(reduced: bool) -> None:
    found = to_classes("a.tif", np.array([[-1, 1, 2]]), 3, reduced)
    assert found.tolist() == [[255, 1 - reduced, 2 - reduced]]
    with pytest.raises(UserError, match=r"a.tif holds label -2: labels begin at 0"):
        to_classes("a.tif", np.array([[-2, 1, 2]]), 3, reduced)
