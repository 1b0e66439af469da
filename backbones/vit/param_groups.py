"""Fine-tuning rules: layer-wise learning-rate decay, which parameters decay, which blocks train. No optimiser, no schedule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.errors import UserError

NoDecay = Callable[[str, Tensor], bool]


def no_decay_official(name: str, parameter: Tensor) -> bool:
    """Official fine-tuning (util/lr_decay.py, models_vit.py): biases, norms, positions and the class token."""
    return parameter.ndim <= 1 or name.split(".")[-1] in ("pos_embed", "cls_token", "dist_token", "reg_token")


def no_decay_pretraining(name: str, parameter: Tensor) -> bool:
    """Official pre-training (timm's `param_groups_weight_decay`): biases and norms; class and mask token do decay."""
    return parameter.ndim <= 1


def layer_id(name: str, depth: int) -> int:
    """Layer of an encoder parameter: 0 embeddings, i + 1 block i, ``depth + 1`` the rest (util/lr_decay.py).

    `name` is relative to the encoder.
    """
    if name in ("cls_token", "pos_embed", "reg_token") or name.startswith(("patch_embed.", "norm_pre.", "rope.")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1


def freeze_below(encoder: VisionTransformer, tune_blocks: float) -> list[nn.Module]:
    """Partial fine-tuning (paper Sec. 4.3, Fig. 9): freezes the encoder but for its last blocks and its last norms.

    Frozen parameters lie below all that train, so that autograd keeps nothing for them: no activations, no backward pass.

    Args:
        tune_blocks: 0 no block; 0.5 the MLP half of the last block with the norm before it; n the last n blocks. All of
            them is full fine-tuning, as the last point of the figure: patch embedding, class token and positions train too.

    Returns:
        What trains. The rest is to stay in evaluation mode: stochastic depth regularises weights that are learnt, and features
        that nothing learns from should not change from step to step.

    Raises:
        UserError: more blocks than there are, or a fraction other than a half.
    """
    depth = len(encoder.blocks)
    if tune_blocks not in (0.5, *range(depth + 1)):
        raise UserError(
            f"head.tune_blocks={tune_blocks:g}: the encoder has {depth} blocks: give 0, 0.5 or 1 to {depth}"
        )
    if tune_blocks == depth:
        return [encoder.requires_grad_(True)]
    last: Any = encoder.blocks[-1]
    half = [last.norm2, last.mlp, last.ls2, last.drop_path2] if tune_blocks == 0.5 else []
    trained = [*encoder.blocks[depth - int(tune_blocks) :], *half, encoder.norm, encoder.fc_norm]
    encoder.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    return trained


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    depth: int,
    layer_decay: float | None = None,
    encoder_prefix: str = "",
    layer_of: Mapping[str, int] | None = None,
    spared: Collection[str] = (),
    no_decay: NoDecay = no_decay_official,
) -> list[dict[str, Any]]:
    """Optimiser groups of all parameters that train.

    Args:
        depth: number of Transformer blocks of the encoder.
        layer_decay: a parameter of layer i learns at ``layer_decay ** (depth + 1 - i)`` of the learning rate
            (group key ``lr_scale``, which timm's schedulers read). None: everything at the full rate.
        encoder_prefix: where the encoder sits in `model`, such as ``backbone.net.encoder.``; what lies outside is head.
        layer_of: layers of the encoder's parameters by name, where it is no plain ViT; the head's is ``depth + 1``.
        spared: parameters of the encoder that keep away from weight decay, too.
        no_decay: tells (full name, parameter) that keep away from weight decay.

    Raises:
        UserError: layer decay of an encoder that does not say its layers in order.
    """
    if layer_decay not in (None, 1.0) and layer_of is not None and len(set(layer_of.values())) < 2:
        raise UserError(
            f"optimizer.layer_decay={layer_decay:g}: this encoder does not say its layers in order (layers of Encoder.wrap): "
            "give --set optimizer.layer_decay=null"
        )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_encoder = name.startswith(encoder_prefix)
        inside = name.removeprefix(encoder_prefix)
        layer = depth + 1
        if in_encoder:
            layer = layer_id(inside, depth) if layer_of is None else layer_of.get(inside, depth + 1)
        scale = 1.0 if layer_decay is None else layer_decay ** (depth + 1 - layer)
        decays = not no_decay(name, parameter) and not (in_encoder and inside in spared)
        decay = weight_decay if decays else 0.0
        group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
    return list(groups.values())
