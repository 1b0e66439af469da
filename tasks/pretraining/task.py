"""The pre-training task: unlabelled images, `backbones.mae.model.MaskedAutoencoder`, its loss. No evaluation, no transforms."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.checkpoints.checkpoint import Checkpoint, open_encoder
from backbones.encoders.contract import Encoder
from backbones.errors import UserError
from backbones.files.tensor_files import sha256_file
from backbones.mae.masking import grid_stride, random_masking, visible_count
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.patches import patchify
from backbones.mae.targets import TokenTarget, create_target
from backbones.mae.tokenizer import PatchCodebook
from backbones.vit.param_groups import no_decay_pretraining, param_groups
from tasks.base import Task
from tasks.datasets.describe import allowed, describe, drop_unreadable, first_look
from tasks.datasets.embedded.root import embedded_root
from tasks.datasets.images import open_split, training_images
from tasks.datasets.options import layout_options
from tasks.datasets.transforms import normalise
from tasks.pretraining import reconstructions, transforms
from tasks.pretraining.config import MAEConfig, PretrainingRecipe

# Fitted targets learn from so many patches, of at most so many training images spread over the set.
_FIT_PATCHES, _FIT_IMAGES = 2**17, 2048


class PretrainingTask(Task[PretrainingRecipe]):
    """MAE by paper Table 8."""

    model: MaskedAutoencoder

    def __init__(self, recipe: PretrainingRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        mae = recipe.mae
        encoder = open_encoder(recipe.encoder, checkpoint, positions="regenerate")
        self.preprocessing = encoder.preprocessing
        self.model = create_model(recipe, encoder)
        data = recipe.data
        root = embedded_root(data, "imagenet")
        options = layout_options(data)
        self.images = open_split(data.name, root, "pretrain", options=options, allow=allowed(data, "pretrain"))
        self.images.limit(data.limit_train)
        notes = drop_unreadable(self.images, data)
        self.data = describe(data, root, {"train": self.images}, notes, labelled=False)
        self.data.split, self.data.fingerprint = "train", _fingerprint(self.data.fingerprint, mae)

    def look_at_data(self) -> list[str]:
        """See `Task`."""
        return first_look(self.data, {"train": self.images})

    def train_dataset(self) -> Dataset[Any]:
        dataset, target = self._training_images(), self.model.decoder_target
        if target.needs_fit:
            target.fit(self._sample_patches(dataset), self.recipe.seed)
        return dataset

    def rehearse_batch(self, count: int, *, train: bool) -> Any:
        """See `Task`; a target that learns from patches passes for fitted, since its shapes are all that counts."""
        self.model.decoder_target.needs_fit = False
        return self.collate()([self._training_images()[0]] * count)

    def rehearse_losses(self, batch: Tensor) -> Any:
        """See `Task`; blocks are drawn on the CPU by their values, so as many patches anywhere stand for them."""
        if self.model.mask_sampling != "block":
            return self.model(batch)
        rows, columns = self.model.grid
        return self.model(batch, random_masking(len(batch), rows * columns, self.model.mask_ratio, batch.device))

    def _training_images(self) -> Dataset[Any]:
        if self.recipe.train.cache_images:
            self.images.cache()
        augmentation, size = self.recipe.augmentation, self.recipe.encoder.img_size
        transform, crop = transforms.train_transform(size, augmentation), transforms.train_crop(size, augmentation)
        return training_images(self.images, self.recipe.data.decoder, transform, crop)

    def _sample_patches(self, dataset: Dataset[Any]) -> Tensor:
        """Augmented training patches (M, P) for a target that learns from them: the same at every start of a run."""
        count = min(len(self.images), _FIT_IMAGES)
        share, patch = -(-_FIT_PATCHES // count), self.model.patch_size
        kept = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            for i in range(count):
                image, _ = dataset[i * len(self.images) // count]
                patches = patchify(normalise(image.unsqueeze(0), self.preprocessing), patch)[0]
                kept.append(patches[torch.randperm(len(patches))[:share]])
        return torch.cat(kept)

    def prepare_batch(self, batch: list[Tensor]) -> Tensor:
        return normalise(batch[0], self.preprocessing)

    def param_groups(self) -> list[dict[str, Any]]:
        return model_param_groups(self.model, self.recipe)

    def draw(self, model: nn.Module, folder: Path) -> None:
        """Reconstructions of validation images, or of training images where there are no others."""
        assert isinstance(model, MaskedAutoencoder)
        try:
            images = open_split(self.data.name, self.data.root, "val", options=layout_options(self.recipe.data))
        except UserError:
            images = self.images
        sampling = self.recipe.mae.mask_sampling
        reconstructions.draw(model, images, self.preprocessing, folder / reconstructions.FILE, sampling=sampling)

    def export(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """The encoder under timm's names, everything in the official layout (with decoder), and a codebook that was used."""
        assert isinstance(model, MaskedAutoencoder)
        whole = {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}
        files = {"encoder": model.encoder.state_dict(), "mae": whole}
        target = model.decoder_target
        if isinstance(target, TokenTarget) and isinstance(target.tokenizer, PatchCodebook):
            files["tokenizer"] = target.tokenizer.state_dict()
        return files


def create_model(recipe: PretrainingRecipe, encoder: Encoder | None = None) -> MaskedAutoencoder:
    """The model of a recipe around `encoder`, or one from scratch; a target that learns is not fitted yet.

    Raises:
        UserError: values that make no model, or an encoder that is no plain ViT.
    """
    mae, opened = recipe.mae, encoder or open_encoder(recipe.encoder, None)
    vit = opened.plain
    if vit is None:
        raise UserError(f"pre-training masks the plain ViT that MAE has, this is a {opened.arch}")
    _check(mae, vit.patch_embed.grid_size)
    return MaskedAutoencoder(
        vit,
        decoder_embed_dim=mae.decoder_embed_dim,
        decoder_depth=mae.decoder_depth,
        decoder_num_heads=mae.decoder_num_heads,
        mask_ratio=mae.mask_ratio,
        mask_sampling=mae.mask_sampling,
        encoder_mask_tokens=mae.encoder_mask_tokens,
        target=create_target(
            mae.target,
            vit.patch_embed.patch_size[0],
            pca_components=mae.pca_components,
            vocabulary=mae.vocabulary,
            tokenizer=mae.tokenizer,
        ),
    )


def model_param_groups(model: MaskedAutoencoder, recipe: PretrainingRecipe) -> list[dict[str, Any]]:
    """Optimiser groups of pre-training: weight decay for all but biases and norms."""
    return param_groups(
        model,
        weight_decay=recipe.optimizer.weight_decay,
        depth=len(model.encoder.blocks),
        no_decay=no_decay_pretraining,
    )


def _fingerprint(images: str, mae: MAEConfig) -> str:
    """The data's fingerprint; with a tokenizer file its content is part of it, since the targets come from there."""
    if mae.target != "tokens" or mae.tokenizer is None:
        return images
    return hashlib.sha256(f"{images}\n{sha256_file(Path(mae.tokenizer).expanduser())}".encode()).hexdigest()


def _check(mae: MAEConfig, grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    if not 0 < mae.mask_ratio < 1:
        raise UserError(f"mae.mask_ratio={mae.mask_ratio}: give a share between 0 and 1")
    if visible_count(patches, mae.mask_ratio) == 0:
        raise UserError(f"mae.mask_ratio={mae.mask_ratio} leaves none of {patches} patches visible: give a smaller one")
    if mae.mask_sampling == "grid":
        grid_stride(grid, mae.mask_ratio)
    if mae.decoder_embed_dim % 4 or mae.decoder_embed_dim % mae.decoder_num_heads:
        raise UserError(
            f"mae.decoder_embed_dim={mae.decoder_embed_dim}: give a multiple of 4 and of "
            f"mae.decoder_num_heads={mae.decoder_num_heads}"
        )
