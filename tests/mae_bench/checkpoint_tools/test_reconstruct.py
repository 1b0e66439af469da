"""`reconstruct`: what the panels show, masks that are the same again, and targets that are turned back into pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

import mae_bench
from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.mae.masking import draw_masking
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.patches import patchify, take, unpatchify
from backbones.mae.targets import Target, create_target, normalise_patches
from backbones.vit.encoder import create_encoder
from mae_bench.checkpoint_tools.image_files import load_image
from mae_bench.checkpoint_tools.reconstruct import choose_target
from tasks.contact_sheet import Sheet
from tasks.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, normalise
from tasks.pretraining.reconstructions import triplet
from tests.conftest import Result
from tests.encoders import MAE

Cli = Callable[..., Result]
SIZE = 48  # 6 x 6 patches


def autoencoder(target: Target | str = "pixels_norm") -> MaskedAutoencoder:
    torch.manual_seed(0)
    encoder = create_encoder("vit_micro_patch8", img_size=SIZE)
    return MaskedAutoencoder(encoder, decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=16, target=target).eval()


def blind(target: Target | str) -> MaskedAutoencoder:
    """Predicts zeros, whatever it sees."""
    model = autoencoder(target)
    nn.init.zeros_(model.decoder_pred.weight)
    return model


def write(path: Path, model: MaskedAutoencoder, target: str | None = None) -> Path:
    """A file in the official layout (``.pth``), or ours, which says what the target was."""
    state = {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}
    if path.suffix == ".pth":
        torch.save({"model": state}, path)
        return path
    settings = {"mae.target": target, "mae.decoder_num_heads": 16}
    save_tensors(path, state, {"method": "MAE", "pretraining": {"settings": settings, "changed": []}})
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint") / "mae.safetensors", autoencoder(), "pixels_norm")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    paths = [folder / "a.png", folder / "b.png"]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        coarse.resize((90, 60), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture(scope="module")
def image(photographs: list[Path]) -> Tensor:
    return load_image(photographs[0], (SIZE, SIZE))


def in_patches(panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(48, 48, 3) -> (36, 192)."""
    return patchify(torch.from_numpy(panel).permute(2, 0, 1).unsqueeze(0), 8)[0].numpy()


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """Normalised images (1, 3, H, W) back to (H, W, 3)."""
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    array: NDArray[np.uint8] = ((pixels[0] * std + mean) * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return array


# --- Panels.


@pytest.mark.parametrize("sampling", ["random", "block", "grid"])
def test_visible_patches_of_the_reconstruction_are_the_images_own(image: Tensor, sampling: str) -> None:
    masking = draw_masking(sampling, 1, (6, 6), 0.75)
    panels, _ = triplet(autoencoder(), image, masking, MAE)
    masked, reconstructed, original = map(in_patches, panels)
    hidden = masking.mask[0].bool().numpy()
    assert hidden.sum() == 27
    np.testing.assert_array_equal(panels[2], image.permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(reconstructed[~hidden], original[~hidden])
    assert (reconstructed[hidden] != original[hidden]).any()
    np.testing.assert_array_equal(masked[~hidden], original[~hidden])
    assert (masked[hidden] == 128).all()


def test_the_loss_is_that_of_pretraining(image: Tensor) -> None:
    model = autoencoder()
    masking = draw_masking("random", 1, (6, 6), 0.75)
    assert triplet(model, image, masking, MAE)[1] == pytest.approx(
        model(normalise(image.unsqueeze(0), MAE), masking).item(), rel=1e-5
    )


def test_normalised_predictions_get_each_patchs_own_mean_and_deviation_back(image: Tensor) -> None:
    model = autoencoder()
    masking = draw_masking("random", 1, (6, 6), 0.75)
    inputs = normalise(image.unsqueeze(0), MAE)
    patches, prediction = patchify(inputs, 8), model.predict(inputs, masking)
    mean, std = patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    by_hand = to_uint8(unpatchify(prediction * std + mean, 8, (6, 6)))
    hidden = masking.mask[0].bool().numpy()
    drawn = in_patches(triplet(model, image, masking, MAE)[0][1])
    np.testing.assert_array_equal(drawn[hidden], in_patches(by_hand)[hidden])
    # A prediction without error gives the picture back.
    torch.testing.assert_close(model.decoder_target.to_pixels(normalise_patches(patches), patches), patches)


def test_plain_pixels_are_drawn_as_they_are(image: Tensor) -> None:
    masking = draw_masking("random", 1, (6, 6), 0.75)
    panels, _ = triplet(blind("pixels"), image, masking, MAE)
    mean = np.broadcast_to(np.round(255 * np.array(IMAGENET_MEAN)).astype(np.uint8), (48, 48, 3))  # zero is this colour
    hidden = masking.mask[0].bool().numpy()
    np.testing.assert_array_equal(in_patches(panels[1])[hidden], in_patches(mean.copy())[hidden])


def test_pca_coefficients_go_back_through_the_components(image: Tensor, tmp_path: Path, cli: Cli) -> None:
    patches = patchify(normalise(image.unsqueeze(0), MAE), 8)
    target = create_target("pca", 8, pca_components=4)
    target.fit(patches[0])
    model = blind(target)
    with torch.no_grad():
        model.decoder_pred.bias.copy_(torch.tensor([3.0, 0, 0, 0]))
    masking = draw_masking("random", 1, (6, 6), 0.75)
    panels, _ = triplet(model, image, masking, MAE)
    expected = patches.mean(1, keepdim=True) + 3 * target.components[0]  # type: ignore[operator,index]
    by_hand = to_uint8(unpatchify(expected.expand(1, 36, -1), 8, (6, 6)))
    hidden = masking.mask[0].bool().numpy()
    drawn, wanted = (in_patches(panel)[hidden].astype(int) for panel in (panels[1], by_hand))
    np.testing.assert_allclose(drawn, wanted, atol=1)

    # So it does from a file, which knows its target by its tensors.
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    path = write(tmp_path / "mae.safetensors", model, "pca")
    assert cli("reconstruct", path, tmp_path / "x.png", "--out", tmp_path / "out.png").code == 0
    assert text_of(tmp_path / "out.png")["target"] == "pca"
    refusal = cli("reconstruct", path, tmp_path / "x.png", "--out", tmp_path / "out.png", "--target", "pixels")
    assert refusal.code == 2
    assert "was trained to predict pca: leave --target away" in refusal.err


def token_model(image: Tensor, decodes: bool) -> MaskedAutoencoder:
    target = create_target("tokens", 8, vocabulary=4)
    target.tokenizer.codebook.copy_(patchify(normalise(image.unsqueeze(0), MAE), 8)[0, :4])  # type: ignore[union-attr]
    target.needs_fit = False
    if not decodes:

        class Ids(nn.Module):
            vocabulary = 4

            def forward(self, images: Tensor) -> Tensor:
                return torch.zeros(len(images), 36, dtype=torch.long)

        target.tokenizer = Ids()
    model = blind(target)
    with torch.no_grad():
        model.decoder_pred.bias.copy_(torch.tensor([0.0, 0, 5, 0]))
    return model


def test_tokens_are_drawn_by_the_tokenizers_decoder(image: Tensor) -> None:
    masking = draw_masking("random", 1, (6, 6), 0.75)
    panels, _ = triplet(token_model(image, decodes=True), image, masking, MAE)
    hidden, original = masking.mask[0].bool().numpy(), in_patches(panels[2])
    np.testing.assert_array_equal(in_patches(panels[1])[hidden], np.broadcast_to(original[2], (27, 192)))


def test_tokens_without_a_decoder_to_pixels_are_refused(checkpoint: Path, image: Tensor) -> None:
    with pytest.raises(UserError, match="tokenizer has no decoder to pixels"):
        choose_target(load_checkpoint(checkpoint), token_model(image, decodes=False))


# --- Which target.


def chosen(path: Path, asked: str | None = None) -> tuple[str, str]:
    source = load_checkpoint(path)
    choice = choose_target(source, source.masked_autoencoder(), asked)
    return choice.target.name, choice.reason


@pytest.mark.parametrize("target", ["pixels", "pixels_norm"])
def test_our_files_say_what_their_target_was(tmp_path: Path, target: str) -> None:
    name, reason = chosen(write(tmp_path / "mae.safetensors", autoencoder(target), target))
    assert name == target
    assert "told by the file" in reason


def test_where_nothing_tells_the_flag_the_name_or_an_assumption_does(tmp_path: Path) -> None:
    full = write(tmp_path / "mae_pretrain_vit_micro_full.pth", autoencoder())
    visualize = write(tmp_path / "mae_visualize_vit_micro.pth", autoencoder())
    assert chosen(full)[0] == "pixels_norm"
    assert "assumed" in chosen(full)[1]
    assert chosen(visualize)[0] == "pixels"
    assert "its name" in chosen(visualize)[1]
    assert chosen(full, "pixels") == ("pixels", "target pixels, told by --target")


def test_a_flag_against_what_the_file_says_is_followed_and_noted(checkpoint: Path) -> None:
    assert chosen(checkpoint, "pixels") == ("pixels", "target pixels, told by --target (against the file)")


def test_normalised_targets_say_that_mean_and_variance_are_the_originals(checkpoint: Path) -> None:
    assert chosen(checkpoint)[1].endswith("each patch is drawn with the original's mean and variance")


def test_predictions_that_show_it_decide_where_the_file_is_silent(
    cli: Cli, tmp_path: Path, photographs: list[Path]
) -> None:
    model = autoencoder()
    with torch.no_grad():  # predictions now differ in brightness from patch to patch, as those of plain pixels do
        model.decoder_pred.weight[:] = 10 * model.decoder_pred.weight[:1]
    path = write(tmp_path / "full.pth", model)
    name, reason = chosen(path)
    assert name == "pixels"
    assert "its predictions" in reason
    command = ["reconstruct", path, photographs[0], "--out", tmp_path / "out.png"]
    assert "full.pth: target pixels, told by its predictions" in cli(*command).err
    assert "told by --target (against its predictions" in cli(*command, "--target", "pixels_norm").err


# --- The picture.


def text_of(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        about: dict[str, Any] = json.loads(picture.text["mae_bench"])  # type: ignore[attr-defined]
    return about


def test_the_sheet_has_a_triplet_for_each_image_sampling_and_ratio(
    cli: Cli, checkpoint: Path, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[Sheet] = []
    draw = Sheet.draw
    monkeypatch.setattr(Sheet, "draw", lambda sheet: sheets.append(sheet) or draw(sheet))
    out = tmp_path / "out.png"
    options = ["--mask-ratio", 0.5, "--mask-ratio", "0.75", "--sampling", "random,block", "--sampling", "grid"]
    result = cli("reconstruct", checkpoint, *photographs, "--out", out, *options)
    assert result.code == 0, result.err
    (sheet,) = sheets
    assert len(sheet.tiles) == len(photographs) * (2 + 2 + 1)
    assert list(sheet.columns) == ["masked", "reconstruction", "original"]
    assert sheet.labels[4].startswith("a.png\ngrid 75 %, 9 of 36 visible, loss ")
    assert "left out: --sampling grid keeps one patch of each k x k" in result.err
    assert "no --mask-ratio 0.5 " in result.err

    with Image.open(out) as picture:
        assert picture.size > (6 * SIZE, 5 * SIZE)
        drawn = np.asarray(picture.convert("RGB"))
    for i, row in enumerate(sheet.tiles):
        for j, panel in enumerate(row):
            left, top, right, bottom = sheet.box(i, j)
            enlarged = np.asarray(Image.fromarray(panel).resize((right - left, bottom - top), Image.Resampling.NEAREST))
            np.testing.assert_array_equal(drawn[top:bottom, left:right], enlarged)
    above = drawn[sheet.box(0, 0)[3] : sheet.box(2, 0)[1]]
    assert (above < 100).any()  # there are labels


def test_the_file_and_stdout_say_what_the_rows_show(
    cli: Cli, checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    rows = json.loads(cli("reconstruct", checkpoint, photographs[0], "--out", out, "--json").out)
    about = text_of(out)
    assert about["rows"] == rows
    assert (about["target"], about["seed"]) == ("pixels_norm", 0)
    assert about["sha256"] == load_checkpoint(checkpoint).sha256
    (row,) = rows
    assert (row["sampling"], row["mask_ratio"], row["visible"], row["patches"]) == ("random", 0.75, 9, 36)
    lines = cli("reconstruct", checkpoint, photographs[0], "--out", out).out.splitlines()
    assert lines == [f"{photographs[0]}  random 75 %  9 of 36 visible  loss {row['loss']:.4f}", f"picture: {out}"]


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_masks(
    cli: Cli, checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    def bytes_of(name: str, seed: int) -> bytes:
        torch.manual_seed(len(name))  # the global generators do not matter
        command = ["reconstruct", checkpoint, photographs[0], "--out", tmp_path / name, "--sampling", "random,block"]
        assert cli(*command, "--seed", seed).code == 0
        return (tmp_path / name).read_bytes()

    assert bytes_of("a.png", 1) == bytes_of("bb.png", 1)
    bytes_of("c.png", 2)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "c.png") as other:
        assert one.tobytes() != other.tobytes()


def test_a_higher_ratio_hides_more_of_the_same_patches(
    checkpoint: Path, photographs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Tensor] = []
    predict = MaskedAutoencoder.predict
    monkeypatch.setattr(
        MaskedAutoencoder, "predict", lambda self, x, masking: masks.append(masking.mask) or predict(self, x, masking)
    )
    mae_bench.reconstruct(checkpoint, photographs[:1], tmp_path / "out.png", mask_ratios=[0.5, 0.75, 0.9])
    fewer, more, most = masks
    assert (fewer <= more).all()
    assert (more <= most).all()
    assert fewer.sum() < more.sum() < most.sum()


def test_a_runs_folder_stands_for_its_file_with_the_decoder(cli: Cli, photographs: list[Path], tmp_path: Path) -> None:
    run, model = tmp_path / "run", autoencoder()
    run.mkdir()
    save_tensors(run / "encoder.safetensors", model.encoder.state_dict(), {})
    write(run / "mae.safetensors", model, "pixels_norm")
    assert cli("reconstruct", run, photographs[0], "--out", tmp_path / "out.png").code == 0
    result = cli("reconstruct", run / "encoder.safetensors", photographs[0], "--out", tmp_path / "out.png")
    assert result.code == 2
    assert f"give {run}/mae.safetensors" in result.err


def test_another_image_size_has_another_grid(
    cli: Cli, checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    command = ["reconstruct", checkpoint, photographs[0], "--out", tmp_path / "out.png", "--json"]
    (row,) = json.loads(cli(*command, "--img-size", "32x64").out)
    assert (row["patches"], row["visible"]) == (32, 8)


# --- Images of all kinds.


def test_images_are_cropped_to_their_centre_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = 200  # a square in the middle
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = load_image(tmp_path / "wide.png", (SIZE, SIZE))
    assert found.shape == (3, SIZE, SIZE)
    assert (found[:, :, 2:-2] == 200).all()


MODES = {
    "grey.png": (Image.new("L", (50, 50), 77), (77, 77, 77)),
    "transparent.png": (Image.new("RGBA", (50, 50), (10, 20, 30, 0)), (255, 255, 255)),
    "opaque.png": (Image.new("RGBA", (50, 50), (10, 20, 30, 255)), (10, 20, 30)),
    "cmyk.tif": (Image.new("CMYK", (50, 50), (0, 255, 255, 0)), (255, 0, 0)),
    "palette.gif": (
        Image.new("RGB", (50, 50), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE),
        (10, 200, 30),
    ),
    "bits16.png": (Image.fromarray(np.full((50, 50), 128 * 257, np.uint16)), (128, 128, 128)),
    "black_and_white.png": (Image.new("1", (50, 50), 1), (255, 255, 255)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str) -> None:
    picture, colour = MODES[name]
    picture.save(tmp_path / name)
    found = load_image(tmp_path / name, (16, 16))
    assert found.dtype == torch.uint8
    assert (found == torch.tensor(colour).view(3, 1, 1)).all()


def test_the_exif_rotation_is_followed(tmp_path: Path) -> None:
    picture = Image.fromarray(np.repeat([[[250, 0, 0]], [[0, 0, 250]]], 32, axis=0).repeat(64, axis=1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(ImageOps.flip(picture.resize((16, 16), Image.Resampling.BICUBIC)))
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", (16, 16)).permute(1, 2, 0).numpy(), upright)


# --- Refusals.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "out.jpg"], ["out.jpg", ".png"]),
        (["--out", "nowhere/out.png"], ["nowhere"]),
        (["--mask-ratio", "75"], ["--mask-ratio 75", "36 patches"]),
        (["--mask-ratio", "0.99"], ["--mask-ratio 0.99", "36 patches"]),
        (["--mask-ratio", "half"], ["--mask-ratio half", "0.75"]),
        (["--sampling", "blocks"], ['"blocks"', '"block"', "--sampling"]),
        (["--sampling", "grid", "--mask-ratio", "0.6"], ["--sampling grid", "--mask-ratio 0.6", "0.75 is 2 x 2"]),
        (["--target", "pixel"], ['"pixel"', '"pixels"', "--target"]),
        (["--img-size", "50"], ["50x50", "patch size"]),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    cli: Cli,
    checkpoint: Path,
    photographs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if options[0] == "--out" else ["--out", "out.png"]
    refused(cli("reconstruct", checkpoint, photographs[0], *out, *options), *words)
    assert not list(tmp_path.iterdir())


def refused(result: Result, *words: str) -> None:
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1, result.err
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("name", "words"),
    [("nothing.png", ["no such image"]), ("text.png", ["unreadable image"]), ("folder", ["is a folder", "/*.jpg"])],
)
def test_what_is_no_image_is_named(
    cli: Cli, checkpoint: Path, photographs: list[Path], tmp_path: Path, name: str, words: list[str]
) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder").mkdir()
    command = ["reconstruct", checkpoint, photographs[0], tmp_path / name, "--out", tmp_path / "out.png"]
    refused(cli(*command), str(tmp_path / name), *words)
    assert not (tmp_path / "out.png").exists()


def test_an_image_that_is_cut_short_is_named(
    cli: Cli, checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "short.png").write_bytes(photographs[0].read_bytes()[:800])
    command = ["reconstruct", checkpoint, tmp_path / "short.png", "--out", tmp_path / "out.png"]
    refused(cli(*command), "short.png", "unreadable image")


def test_an_encoder_without_decoder_says_which_published_files_have_one(
    cli: Cli, photographs: list[Path], tmp_path: Path
) -> None:
    torch.save({"model": autoencoder().encoder.state_dict()}, tmp_path / "mae_pretrain_vit_micro.pth")
    command = ["reconstruct", tmp_path / "mae_pretrain_vit_micro.pth", photographs[0], "--out", tmp_path / "out.png"]
    refused(cli(*command), "mae_pretrain_vit_micro.pth", "decoder", "mae_visualize_vit_*.pth", "_full.pth")


def test_predictions_are_made_with_the_files_own_weights(checkpoint: Path, image: Tensor) -> None:
    masking = draw_masking("random", 1, (6, 6), 0.75)
    inputs = normalise(image.unsqueeze(0), MAE)
    read = load_checkpoint(checkpoint).masked_autoencoder().eval()
    here = autoencoder()
    torch.testing.assert_close(
        take(read.predict(inputs, masking), masking.ids_masked), take(here.predict(inputs, masking), masking.ids_masked)
    )
