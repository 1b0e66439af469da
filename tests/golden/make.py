"""Makes the stored figures anew with the official code: `python -m tests.golden.make --official DIR --timm DIR --out DIR`.

Not run by the tests. `--official` is a checkout of facebookresearch/mae, `--timm` a folder that holds the unpacked wheel of
timm 0.3.2, which the official code asks for; both are imported as they are (`official.py`). README.md says what a file holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden.figures import draw_weights, picture, sketch, tensor
from tests.golden.official import make_importable

RATIOS = (0.4, 0.5, 0.6, 0.75, 0.85, 0.9)
NORM = partial(nn.LayerNorm, eps=1e-6)
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
# The small model of mae_forward.npz and classifier.npz, and ViT-B/16's shapes with few blocks.
SMALL = {"img_size": 80, "patch_size": 16, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 4}
SMALL_DECODER = {"decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4}
BASE16 = {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 2, "num_heads": 12, "mlp_ratio": 4}
BASE16_DECODER = {"decoder_embed_dim": 512, "decoder_depth": 1, "decoder_num_heads": 16}


class Noise:
    """Within the context `torch.rand` gives back one stored array."""

    def __init__(self, noise: np.ndarray[Any, Any]) -> None:
        self.noise, self.rand = noise, torch.rand

    def __enter__(self) -> None:
        torch.rand = lambda *_, **__: torch.from_numpy(self.noise)

    def __exit__(self, *_: object) -> None:
        torch.rand = self.rand


def uniform(seed: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.RandomState(seed).random_sample(shape).astype(np.float32)


def autoencoder(*, norm_pix_loss: bool, **sizes: int) -> nn.Module:
    import models_mae

    return models_mae.MaskedAutoencoderViT(norm_layer=NORM, norm_pix_loss=norm_pix_loss, **sizes)


def pos_embed() -> dict[str, Any]:
    from util.pos_embed import get_2d_sincos_pos_embed as sincos

    sizes = ((48, 5, 1), (768, 14, 13), (1280, 16, 17), (512, 14, 13))
    return {f"w{w}_g{g}_every{k}": sincos(w, g, cls_token=True)[::k].astype(np.float32) for w, g, k in sizes}


def masking() -> dict[str, Any]:
    model = autoencoder(norm_pix_loss=False, **SMALL, **SMALL_DECODER)
    out: dict[str, Any] = {"noise": uniform(1, (3, 196))}
    indices = torch.arange(196.0).repeat(3, 1)[:, :, None]
    with Noise(out["noise"]):
        for ratio in RATIOS:
            kept, mask, restore = model.random_masking(indices, ratio)
            out[f"kept_{ratio}"] = kept[..., 0].numpy().astype(np.int16)
            out[f"mask_{ratio}"] = mask.numpy().astype(np.int8)
    out["ids_restore"] = restore.numpy().astype(np.int16)
    return out


def trained_names(model: nn.Module) -> list[str]:
    return sorted(name for name, p in model.named_parameters() if p.requires_grad)


def mae_forward() -> dict[str, Any]:
    images = tensor("images", (2, 3, 80, 80), scale=1.0, offset=0.1)
    out: dict[str, Any] = {"noise": uniform(2, (2, 25))}
    with Noise(out["noise"]):
        for tag in ("plain", "normalised"):
            model = autoencoder(norm_pix_loss=tag == "normalised", **SMALL, **SMALL_DECODER)
            draw_weights(dict(model.named_parameters()))
            loss, prediction, mask = model(images, 0.75)
            loss.backward()
            gradients = {n: p.grad for n, p in model.named_parameters()}
            out["parameters"] = np.array(trained_names(model))
            out[f"loss_{tag}"] = loss.detach().numpy()
            out[f"gradient_norms_{tag}"] = np.array([gradients[n].double().norm() for n in out["parameters"]])
        out["prediction"], out["mask"] = prediction.detach().numpy(), mask.numpy().astype(np.int8)
        out["latent"] = model.forward_encoder(images, 0.75)[0].detach().numpy()
        out["patches_first_image_every7"] = model.patchify(images)[0, ::7].numpy()
    return out


def mae_base16() -> dict[str, Any]:
    """ViT-B/16's shapes: whole tensors as sketches, and a corner of each as it is."""
    images = tensor("images", (2, 3, 224, 224), scale=1.0, offset=0.1)
    out: dict[str, Any] = {"noise": uniform(3, (2, 196))}
    with Noise(out["noise"]):
        for tag in ("plain", "normalised"):
            model = autoencoder(norm_pix_loss=tag == "normalised", **BASE16, **BASE16_DECODER)
            draw_weights(dict(model.named_parameters()))
            indices = torch.arange(196.0).repeat(2, 1)[:, :, None]
            out["ids_keep"] = model.random_masking(indices, 0.75)[0][..., 0].numpy().astype(np.int16)
            latent, mask, restore = model.forward_encoder(images, 0.75)
            prediction = model.forward_decoder(latent, restore)
            loss = model.forward_loss(images, prediction, mask)
            loss.backward()
            gradients = {n: p.grad for n, p in model.named_parameters()}
            out["parameters"] = np.array(trained_names(model))
            out[f"loss_{tag}"] = loss.detach().numpy()
            out[f"gradients_{tag}"] = np.stack([sketch(n, gradients[n]) for n in out["parameters"]])
    out["ids_restore"], out["mask"] = restore.numpy().astype(np.int16), mask.numpy().astype(np.int8)
    for name, value in (("latent", latent), ("prediction", prediction)):
        out[name] = sketch(name, value)
        out[f"{name}_corner"] = value[:, :4, :24].detach().numpy()
        out[f"{name}_token_norms"] = value.double().norm(dim=-1).detach().numpy()
    return out


def initialisation() -> dict[str, list[float]]:
    """Kind of parameter (``blocks.N.…``) -> count, mean, standard deviation, minimum, maximum of one seeded model."""
    torch.manual_seed(0)
    model = autoencoder(norm_pix_loss=True, **BASE16, **BASE16_DECODER)
    kinds: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        kinds.setdefault(re.sub(r"\.\d+\.", ".N.", name), []).append(parameter.detach().double().flatten())
    values = {kind: torch.cat(parts) for kind, parts in kinds.items()}
    return {k: statistics(v) for k, v in values.items()}


def statistics(v: Tensor) -> list[float]:
    return [v.numel(), *(f.item() for f in (v.mean(), v.std(), v.min(), v.max()))]


def head_initialisation() -> dict[str, dict[str, list[float]]]:
    """Parameter of the new head of 1000 classes on ViT-B -> count, mean, standard deviation, minimum, maximum."""
    import models_vit
    from timm.models.layers import trunc_normal_

    out = {}
    for protocol, average, std in (("finetune", True, 2e-5), ("linear", False, 0.01)):
        torch.manual_seed(0)
        model = models_vit.VisionTransformer(
            global_pool=average, qkv_bias=True, norm_layer=NORM, num_classes=1000, **{**BASE16, "depth": 1}
        )
        trunc_normal_(model.head.weight, std=std)
        out[protocol] = {name: statistics(p.detach().double()) for name, p in model.head.named_parameters()}
    return out


def classifier() -> dict[str, Any]:
    import models_vit

    images = tensor("images", (2, 3, 80, 80), scale=1.0, offset=0.1)
    out = {}
    for name, average in (("logits_avg", True), ("logits_token", False)):
        model = models_vit.VisionTransformer(
            global_pool=average, qkv_bias=True, norm_layer=NORM, num_classes=7, **SMALL
        )
        draw_weights(dict(model.eval().named_parameters()), positions=True)
        out[name] = model.head(model.forward_features(images)).detach().numpy()
    return out


def layer_decay() -> dict[str, list[float]]:
    import models_vit
    from util.lr_decay import param_groups_lrd

    model = models_vit.VisionTransformer(
        global_pool=True, qkv_bias=True, norm_layer=NORM, num_classes=1000, **{**BASE16, "depth": 12}
    )
    groups = param_groups_lrd(model, 0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.65)
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: [g["lr_scale"], g["weight_decay"]] for g in groups for p in g["params"]}


def pretraining_weight_decay() -> dict[str, float]:
    """As main_pretrain.py makes its groups: with timm's function."""
    from timm.optim.optim_factory import add_weight_decay

    model = autoencoder(norm_pix_loss=True, **BASE16, **BASE16_DECODER)
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: g["weight_decay"] for g in add_weight_decay(model, 0.05) for p in g["params"]}


def schedule(lr: float, min_lr: float, epochs: int, warmup_epochs: int, steps_per_epoch: int) -> dict[str, Any]:
    from util.lr_sched import adjust_learning_rate

    config: dict[str, Any] = {"lr": lr, "min_lr": min_lr, "epochs": epochs, "warmup_epochs": warmup_epochs}
    groups = [{"params": [nn.Parameter(torch.zeros(1))]}, {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    curve = []
    for step in range(epochs * steps_per_epoch):
        epoch, i = divmod(step, steps_per_epoch)
        adjust_learning_rate(optimizer, i / steps_per_epoch + epoch, SimpleNamespace(**config))
        curve.append([group["lr"] for group in optimizer.param_groups])
    return {**config, "steps_per_epoch": steps_per_epoch, "curve": curve}


def lars() -> dict[str, Any]:
    from util.lars import LARS

    weight, bias = nn.Parameter(tensor("lars.weight", (5, 7))), nn.Parameter(tensor("lars.bias", (5,)))
    optimizer = LARS([weight, bias], lr=0.4, weight_decay=0.0, momentum=0.9)
    for step in range(3):
        weight.grad, bias.grad = tensor(f"lars.weight.grad{step}", (5, 7)), tensor(f"lars.bias.grad{step}", (5,))
        optimizer.step()
    return {"weight": weight.detach().numpy(), "bias": bias.detach().numpy()}


def mixup() -> dict[str, Any]:
    """Targets, and a coarse grid of pixels, for ten seeds with the values that FINETUNE.md trains with."""
    from timm.data import mixup as module

    module.mixup_target.__defaults__ = (*module.mixup_target.__defaults__[:-1], "cpu")  # its default is a GPU
    mix = module.Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=3)
    drawn, labels = np.random.RandomState(4).randint(0, 256, (4, 3, 32, 32), dtype=np.uint8), torch.tensor([0, 2, 1, 2])
    images = (torch.from_numpy(drawn).float() / 255 - MEAN) / STD
    pixels, targets = [], []
    for seed in range(10):
        np.random.seed(seed)
        mixed, target = mix(images.clone(), labels)
        pixels.append(mixed[:, :, ::5, ::5].numpy())
        targets.append(target.numpy())
    return {"images": drawn, "labels": labels.numpy(), "targets": np.stack(targets), "pixels": np.stack(pixels)}


def tf_crops() -> list[list[float]]:
    from util.crop import RandomResizedCrop

    torch.manual_seed(0)
    return [
        [w, h, *scale, *RandomResizedCrop.get_params(torch.zeros(3, h, w), scale, (3 / 4, 4 / 3))]
        for w, h in ((500, 375), (64, 48), (33, 97), (224, 224))
        for scale in ((0.08, 1.0), (0.5, 1.0))
        for _ in range(20)
    ]


def eval_output(size: int, image: tuple[int, int]) -> Tensor:
    from util.datasets import build_transform

    return build_transform(False, SimpleNamespace(input_size=size))(picture(*image))


def eval_digests() -> list[dict[str, Any]]:
    out = []
    images = (
        (64, (150, 100)),
        (224, (400, 300)),
        (224, (301, 517)),
        (224, (120, 90)),
        (384, (400, 500)),
        (448, (375, 500)),
    )
    for size, image in images:
        pixels = ((eval_output(size, image) * STD + MEAN) * 255).round().to(torch.uint8)
        digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        out.append({"size": size, "image": list(image), "sha256": digest})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--official", "--timm", "--out"):
        parser.add_argument(flag, type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    torch.set_num_threads(1)
    version = make_importable(args.official, args.timm)
    assert version == "0.3.2", f"{args.timm} holds timm {version}"
    args.out.mkdir(parents=True, exist_ok=True)
    for made in (pos_embed, masking, mae_forward, mae_base16, classifier, lars, mixup):
        np.savez_compressed(args.out / f"{made.__name__}.npz", **made())
    np.savez_compressed(args.out / "eval_transform.npz", normalised_64=eval_output(64, (150, 100)).numpy())
    curves = [(1e-3, 1e-6, 10, 2, 7), (2.4e-3, 0.0, 8, 3, 5), (1e-3, 0.0, 5, 1, 3)]
    figures = {
        "layer_decay_vit_base": layer_decay(),
        "pretraining_weight_decay": pretraining_weight_decay(),
        "initialisation": initialisation(),
        "head_initialisation": head_initialisation(),
        "schedules": [schedule(*curve) for curve in curves],
        "tf_crops": tf_crops(),
        "eval_digests": eval_digests(),
    }
    (args.out / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
