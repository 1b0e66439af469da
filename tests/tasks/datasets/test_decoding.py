"""A random crop decoded by itself is the crop of the image decoded whole; what the fast decoder does not take is PIL's."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torchvision import transforms as v1

from backbones.errors import UserError
from tasks.classification.config import AugmentationConfig
from tasks.classification.transforms import train_crop as finetuning_crop
from tasks.classification.transforms import train_transform as finetuning_transform
from tasks.datasets import decoding
from tasks.datasets.decoding import RandomCrop, decode_top, jpeg_frame, reduced, reduction, resize_crop, to_pil
from tasks.datasets.images import CroppedImages, TransformedImages, open_split, training_images
from tasks.pretraining.config import CropConfig
from tasks.pretraining.transforms import train_crop as pretraining_crop
from tasks.pretraining.transforms import train_transform as pretraining_transform
from tests.encoders import MAE
from tests.tasks.pictures import make_folders, truncate

PHOTO = Image.fromarray(data.astronaut())  # 512 x 512


def seed(value: int) -> None:
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def photo(width: int = 500, height: int = 375, mode: str = "RGB") -> Image.Image:
    return PHOTO.resize((width, height)).convert(mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **({"quality": 92} | options))
    return file.getvalue()


def whole(content: bytes) -> np.ndarray[Any, Any]:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.int() - b.int()).abs().float()


@pytest.fixture(params=["simplejpeg", "PIL"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each with the fast decoder, and as on a platform that has none."""
    if request.param == "PIL":
        monkeypatch.setattr(decoding, "simplejpeg", None)
    elif decoding.simplejpeg is None:
        pytest.skip("simplejpeg is not installed")
    return str(request.param)


# The boxes


@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize(
    "shape", [(500, 375), (375, 500), (1200, 90), (31, 400)]
)  # the last two fall back to the centre
def test_pretraining_draws_torchvisions_boxes(scale: tuple[float, float], shape: tuple[int, int]) -> None:
    crop = pretraining_crop(224, CropConfig(scale=list(scale)))
    assert crop is not None
    for number in range(40):
        seed(number)
        wanted = v1.RandomResizedCrop.get_params(Image.new("L", shape), list(scale), [3 / 4, 4 / 3])
        after = torch.get_rng_state()
        seed(number)
        assert crop.draw(*shape) == tuple(wanted)
        assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("name", ["inception", "tf"])
def test_views_show_what_the_official_transform_shows(name: str) -> None:
    # At full size, box, flip and RandAugment being the same ones: what differs is rounding.
    for auto_augment in (None, "rand-m9-mstd0.5-inc1"):
        config = AugmentationConfig(crop=name, auto_augment=auto_augment)
        crop, transform = finetuning_crop(224, config, MAE), finetuning_transform(224, config, MAE)
        content = jpeg(photo())
        image = Image.fromarray(whole(content))
        means = []
        for number in range(20):
            seed(number)
            wanted = transform(image)
            seed(number)
            view = crop.then(crop.of_encoded(content))
            assert (view.shape, view.dtype) == (wanted.shape, wanted.dtype)
            means.append(difference(view, wanted).mean().item())
        # Posterise, solarise and equalise turn one level into many, in few pixels.
        assert max(means) < (0.3 if auto_augment is None else 4)
        assert np.median(means) < 0.1


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_pretraining_views_show_what_the_official_transform_shows(jitter: float, decoder: str) -> None:
    config = CropConfig(color_jitter=jitter)
    crop, transform = pretraining_crop(224, config), pretraining_transform(224, config)
    assert crop is not None
    content = jpeg(photo())
    for number in range(12):
        seed(number)
        wanted = transform(Image.fromarray(whole(content)))
        seed(number)
        view = crop.then(crop.of_encoded(content))
        assert difference(view, wanted).mean() < (0.3 if jitter == 0 else 0.5)
        assert difference(view, wanted).max() < 20
        seed(number)
        assert torch.equal(crop.then(crop.of_encoded(content)), view)  # same seed, same bits


def test_other_crops_of_pretraining_are_not_random_resized_ones() -> None:
    assert pretraining_crop(224, CropConfig(crop="fixed")) is None
    assert pretraining_crop(224, CropConfig(crop="none")) is None


# The pixels


@pytest.mark.parametrize(
    "options",
    [{"subsampling": s} for s in ("4:4:4", "4:2:2", "4:2:0")]
    + [{"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}, {"quality": 20}],
    ids=str,
)
@pytest.mark.parametrize("size", [(131, 97), (64, 48), (33, 200)])
def test_rows_decoded_are_the_first_rows_of_the_whole(
    size: tuple[int, int], options: dict[str, Any], decoder: str
) -> None:
    content = jpeg(photo(*size), **options)
    frame = jpeg_frame(content)
    assert frame is not None
    assert (frame.width, frame.height) == size
    for rows in (1, 2, 7, 16, 17, 31, 32, size[1] - 1, size[1]):
        assert np.array_equal(decode_top(content, frame, rows, 1)[:rows], whole(content)[:rows])


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_rows_decoded_at_a_scale_are_those_that_pil_drafts(scale: int, progressive: bool, decoder: str) -> None:
    content = jpeg(photo(331, 217), progressive=progressive)
    frame = jpeg_frame(content)
    assert frame is not None
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (331 // scale, 217 // scale))
        drafted = np.asarray(image.convert("RGB"))
    assert drafted.shape == (-(-217 // scale), -(-331 // scale), 3)
    for rows in (1, 40, 100, 217):
        top = -(-rows // scale)
        assert np.array_equal(decode_top(content, frame, rows, scale)[:top], drafted[:top])


def test_rows_below_the_crop_are_not_decoded() -> None:
    pytest.importorskip("simplejpeg")
    content = jpeg(photo())
    frame = jpeg_frame(content)
    assert frame is not None
    assert len(decode_top(content, frame, 100, 1)) == 102
    progressive = jpeg(photo(), progressive=True)
    frame = jpeg_frame(progressive)
    assert frame is not None
    assert len(decode_top(progressive, frame, 100, 1)) == 375


@given(st.integers(1, 60), st.integers(1, 3000), st.integers(1, 3000), st.data())
@settings(max_examples=200)
def test_reduction_never_enlarges_and_stays_inside(size: int, width: int, height: int, draw: Any) -> None:
    h, w = draw.draw(st.integers(1, height)), draw.draw(st.integers(1, width))
    box = draw.draw(st.integers(0, height - h)), draw.draw(st.integers(0, width - w)), h, w
    scale = reduction(box, size)
    top, left, rows, columns = reduced(box, scale)
    assert scale == 1 or min(rows, columns) >= size
    assert scale == 8 or min(h, w) < 2 * scale * size  # no larger one would do
    assert 0 <= top < top + rows <= -(-height // scale)
    assert 0 <= left < left + columns <= -(-width // scale)
    for edge, wanted in ((top, box[0]), (left, box[1]), (top + rows, box[0] + h), (left + columns, box[1] + w)):
        assert abs(scale * edge - wanted) <= scale / 2


@pytest.mark.parametrize(("scale", "levels"), [(2, 1.5), (4, 3), (8, 5)])
def test_a_reduced_crop_looks_as_the_whole_ones(scale: int, levels: float, decoder: str) -> None:
    size = 24
    content = jpeg(photo(800, 600))
    image = Image.fromarray(whole(content))
    for top, left in ((0, 0), (33, 57), (101, 203)):
        box = top, left, scale * size + 5, scale * size + 9
        crop = RandomCrop(lambda *_, box=box: box, size, torch.nn.Identity())
        shown = [
            scale * edge for edge in reduced(box, scale)
        ]  # the same but for the edges, which the test above bounds
        wanted = v1.functional.resized_crop(image, *shown, [size, size], v1.InterpolationMode.BICUBIC)
        assert difference(crop.of_encoded(content), v1.functional.pil_to_tensor(wanted)).mean() < levels


@given(st.integers(20, 400), st.integers(20, 400), st.integers(8, 224))
@settings(max_examples=20)
def test_resize_is_pils_but_for_rounding(width: int, height: int, size: int) -> None:
    image = photo(width, height)
    box = (height // 8, width // 9, height // 2, width // 3)
    wanted = v1.functional.resized_crop(image, *box, [size, size], v1.InterpolationMode.BICUBIC)
    apart = difference(resize_crop(np.array(image), box, size), v1.functional.pil_to_tensor(wanted))
    assert apart.mean() < 0.5
    assert apart.max() < 8


def test_bands_are_put_together() -> None:
    pixels = torch.arange(3 * 5 * 7, dtype=torch.uint8).view(3, 5, 7)
    assert torch.equal(v1.functional.pil_to_tensor(to_pil(pixels)), pixels)


# What is not the fast decoder's


def unusual() -> dict[str, bytes]:
    png = io.BytesIO()
    photo(40, 30).save(png, "PNG")
    good = jpeg(photo(40, 30))
    return {
        "PNG": png.getvalue(),
        "CMYK": jpeg(photo(40, 30, "CMYK")),
        "bytes after the end": good + b"\0\0more",
    }


@pytest.mark.parametrize("name", unusual())
def test_unusual_files_are_pils(name: str) -> None:
    content = unusual()[name]
    assert jpeg_frame(content) is None
    crop = RandomCrop(lambda width, height: (0, 0, height, width), 16, torch.nn.Identity())
    assert torch.equal(crop.of_encoded(content), resize_crop(whole(content), (0, 0, 30, 40), 16))


def test_grey_is_rgb(decoder: str) -> None:
    content = jpeg(photo(40, 30, "L"))
    frame = jpeg_frame(content)
    assert frame is not None
    assert np.array_equal(decode_top(content, frame, 30, 1), whole(content))


@given(st.binary(max_size=300), st.integers(0, 299))
@settings(max_examples=200)
def test_damaged_headers_are_an_error_or_none(noise: bytes, at: int) -> None:
    good = jpeg(photo(16, 16))
    crop = RandomCrop(lambda width, height: (0, 0, min(height, 64), min(width, 64)), 8, torch.nn.Identity())
    for content in (noise, b"\xff\xd8" + noise + b"\xff\xd9", good[:at] + noise[:4] + good[at + len(noise[:4]) :]):
        try:
            assert crop.of_encoded(content).shape == (3, 8, 8)
        except decoding.UNREADABLE:
            with pytest.raises((*decoding.UNREADABLE, Image.DecompressionBombError)):
                whole(content)


# Data sets


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "folders")


CROP = pretraining_crop(16, CropConfig())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_truncated_jpeg_is_named_wherever_the_crop_lies(folders: Path, share: float, decoder: str) -> None:
    truncate(folders / "train" / "bee" / "2.jpg", share)
    images = open_split("mine", str(folders), "train")
    at = next(i for i in range(len(images)) if images.name(i).endswith("bee/2.jpg"))
    corner = RandomCrop(lambda *_: (0, 0, 2, 2), 2, torch.nn.Identity())
    with pytest.raises(UserError, match=r"bee/2\.jpg: unreadable image .*data\.skip_broken=true") as caught:
        CroppedImages(images, corner)[at]
    assert "\n" not in str(caught.value)


def test_cached_images_have_the_same_crops(folders: Path) -> None:
    images = open_split("mine", str(folders), "train")
    assert CROP is not None
    dataset = CroppedImages(images, CROP)
    assert len(dataset) == 12

    def samples() -> list[tuple[bytes, int]]:
        found = []
        for i in range(12):
            seed(i)
            view, label = dataset[i]
            found.append((view.numpy().tobytes(), label))
        return found

    before = samples()
    images.cache()
    assert samples() == before
    assert [label for _, label in before] == images.labels


@pytest.mark.parametrize(
    ("name", "crop", "wanted"),
    [("fast", CROP, CroppedImages), ("pil", CROP, TransformedImages), ("fast", None, TransformedImages)],
)
def test_recipe_chooses_the_decoder(folders: Path, name: str, crop: RandomCrop | None, wanted: type) -> None:
    images = open_split("mine", str(folders), "train")
    transform: Callable[[Image.Image], Any] = pretraining_transform(16, CropConfig())
    assert type(training_images(images, name, transform, crop)) is wanted
