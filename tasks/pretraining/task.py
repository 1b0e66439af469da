"""The pre-training task: unlabelled images, `backbones.mae.MaskedAutoencoder`, its loss. No evaluation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from backbones.checkpoint import Checkpoint, build_encoder
from backbones.errors import UserError
from backbones.finetune import no_decay_pretraining, param_groups
from backbones.mae import MaskedAutoencoder
from backbones.masking import visible_count
from tasks.base import DataInfo, Task
from tasks.data import embedded_root, normalise
from tasks.images import TransformedImages, open_split
from tasks.pretraining.config import MAEConfig, PretrainingRecipe


class PretrainingTask(Task[PretrainingRecipe]):
    """MAE by paper Table 8."""

    def __init__(self, recipe: PretrainingRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        encoder_config, mae = recipe.encoder, recipe.mae
        encoder = build_encoder(encoder_config.arch, encoder_config.img_size, encoder_config.drop_path, checkpoint)
        _check(mae, encoder.patch_embed.num_patches)
        self.model = MaskedAutoencoder(
            encoder,
            decoder_embed_dim=mae.decoder_embed_dim,
            decoder_depth=mae.decoder_depth,
            decoder_num_heads=mae.decoder_num_heads,
            mask_ratio=mae.mask_ratio,
            norm_pix_loss=mae.norm_pix_loss,
        )
        data = recipe.data
        root = embedded_root(data, "imagenet")
        self.images = open_split(data.name, root, "pretrain")
        self.images.limit(data.limit_train)
        notes = []
        if data.skip_broken and (dropped := self.images.drop_broken()):
            notes.append(f"{dropped} unreadable training images left out")
        self.data = DataInfo(
            name=data.name,
            root=str(root),
            train_count=len(self.images),
            val_count=0,
            classes=self.images.classes,
            fingerprint=self.images.fingerprint(),
            split="train",
            notes=notes,
        )

    def train_dataset(self) -> Dataset[Any]:
        if self.recipe.train.cache_images:
            self.images.cache()
        return TransformedImages(self.images, self._transform())

    def _transform(self) -> Any:
        """Random resized crop (bicubic) and flip to uint8 (3, H, W), as main_pretrain.py up to normalisation."""
        augmentation, size = self.recipe.augmentation, self.recipe.encoder.img_size
        steps = [v2.RandomResizedCrop(size, scale=tuple(augmentation.scale), interpolation=InterpolationMode.BICUBIC)]
        if augmentation.hflip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose([*steps, v2.PILToTensor()])

    def prepare_batch(self, batch: list[Tensor]) -> Tensor:
        return normalise(batch[0])

    def param_groups(self) -> list[dict[str, Any]]:
        return param_groups(
            self.model,
            weight_decay=self.recipe.optimizer.weight_decay,
            depth=len(self.model.encoder.blocks),  # type: ignore[union-attr,arg-type]
            no_decay=no_decay_pretraining,
        )

    def export(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """The encoder under timm's names, and everything in the official layout (with decoder)."""
        assert isinstance(model, MaskedAutoencoder)
        whole = {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}
        return {"encoder": model.encoder.state_dict(), "mae": whole}


def _check(mae: MAEConfig, patches: int) -> None:
    if not 0 < mae.mask_ratio < 1:
        raise UserError(f"mae.mask_ratio={mae.mask_ratio}: give a share between 0 and 1")
    if visible_count(patches, mae.mask_ratio) == 0:
        raise UserError(f"mae.mask_ratio={mae.mask_ratio} leaves none of {patches} patches visible: give a smaller one")
    if mae.decoder_embed_dim % 4 or mae.decoder_embed_dim % mae.decoder_num_heads:
        raise UserError(
            f"mae.decoder_embed_dim={mae.decoder_embed_dim}: give a multiple of 4 and of "
            f"mae.decoder_num_heads={mae.decoder_num_heads}"
        )
