"""What a checkpoint is, as a card: everything that its tensors and its surroundings tell, and what it can be used for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.checkpoints.read_layouts import block_count
from backbones.files.tensor_files import digest_file
from backbones.vit.arch import parse_arch
from mae_bench.checkpoint_tools.guess_target import guess_pixel_target
from mae_bench.tables.definitions import published
from tasks import registry
from tasks.suitability import why_not

_POSITIONS = {
    "sincos": "fixed sin-cos",
    "sincos_rows_first": "fixed sin-cos, rows first (as MoCo v3)",
    "learnt": "learnt",
    "none": "none",
}


def inspect(path: str | Path) -> dict[str, Any]:
    """The card of a checkpoint, as plain data.

    Raises:
        UserError: what `load_checkpoint` raises.
    """
    checkpoint = load_checkpoint(path)
    return {
        "file": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size if checkpoint.path.is_file() else 0,
        "sha256": checkpoint.sha256,
        "published": known_file(checkpoint.path) if checkpoint.path.is_file() else None,
        "layout": checkpoint.layout,
        "method": checkpoint.method,
        "encoder": _encoder(checkpoint),
        "head": _head(checkpoint),
        "trained_for": checkpoint.task,
        "decoder": _decoder(checkpoint) if checkpoint.decoder else None,
        "parameters": {
            "encoder": _count(checkpoint.state),
            "decoder": _count(checkpoint.decoder),
            "head": _count(checkpoint.head) + _count(checkpoint.heads),
        },
        "left_aside": list(checkpoint.aside),
        "not_run": list(checkpoint.foreign),
        "preprocessing": checkpoint.preprocessing.as_dict(),
        "sources": dict(checkpoint.sources),
        "pretraining": checkpoint.metadata.get("pretraining"),
        "tasks": _tasks(checkpoint),
    }


def known_file(path: Path) -> dict[str, Any] | None:
    """The released file of facebookresearch/mae that this is, by the published first digits of its md5 sum.

    Files whose sum is not published are known by their name alone, which `by` says.
    """
    rows = [row["values"] for row in published.verified_rows(published.load()["tables"]["mae_checkpoints"])]
    digest = digest_file(path, "md5")
    for by, fits in (
        ("md5", lambda row: row["md5_prefix"] and digest.startswith(row["md5_prefix"])),
        ("name", lambda row: row["md5_prefix"] is None and row["file"] == path.name),
    ):
        for row in rows:
            if fits(row):
                return {"file": row["file"], "content": row["content"], "by": by}
    return None


def _encoder(checkpoint: Checkpoint) -> dict[str, Any]:
    architecture = checkpoint.plain
    if architecture is None:
        return _any_encoder(checkpoint)
    width, depth, heads, patch = parse_arch(architecture.arch)
    return {
        "arch": architecture.arch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "patch_size": patch,
        "img_size": list(architecture.img_size),
        "grid": list(architecture.grid),
        "class_token": architecture.class_token,
        "registers": architecture.registers,
        "positions": architecture.positions,
        "relative_bias": architecture.relative_bias,
        "layer_scale": architecture.layer_scale,
        "final_norm": architecture.final_norm,
    }


def _any_encoder(checkpoint: Checkpoint) -> dict[str, Any]:
    """A net that is no plain ViT, as the contract (`backbones.encoders.contract`) has it."""
    encoder = checkpoint.open()
    return {
        "arch": encoder.arch,
        "width": encoder.width,
        "img_size": list(checkpoint.img_size),
        "class_token": encoder.class_token,
        "registers": encoder.prefix_tokens - encoder.class_token,
        "poolings": list(encoder.poolings),
        "layers": encoder.layer_count,
        "stages": [{"width": stage.width, "stride": stage.stride} for stage in encoder.stages],
        "net": type(encoder.net).__name__,
    }


def _head(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Classes, and what the head was trained on: the mean of the patches under ``fc_norm``, else the class token."""
    weights = [v for k, v in checkpoint.head.items() if k.endswith("weight") and v.ndim == 2]
    if not weights and not checkpoint.head:
        return None
    pooling = "mean of the patches" if "fc_norm.weight" in checkpoint.head else "class token"
    return {
        "classes": weights[-1].shape[0] if weights else None,
        "pooling": pooling,
        "batch_norm": any("running_mean" in k for k in checkpoint.head),
    }


def _decoder(checkpoint: Checkpoint) -> dict[str, Any]:
    decoder = checkpoint.decoder
    target, told_by = _target(checkpoint)
    return {
        "width": decoder["decoder_embed.weight"].shape[0],
        "depth": block_count(decoder, "decoder_blocks."),
        "heads": checkpoint.decoder_heads,
        "outputs": decoder["decoder_pred.weight"].shape[0],
        "target": target,
        "target_told_by": told_by,
    }


def _target(checkpoint: Checkpoint) -> tuple[str | None, str]:
    """What the decoder predicts, as ``mae.target`` names it, and how that is known."""
    if checkpoint.target in ("pca", "tokens") or checkpoint.target_normalised is not None:
        return checkpoint.target, "what the file says of its training"
    return guess_pixel_target(checkpoint.masked_autoencoder(), checkpoint.preprocessing.known(checkpoint.path))


def _tasks(checkpoint: Checkpoint) -> dict[str, str]:
    """Task -> "yes", or why not."""
    able = {task: why_not(task, checkpoint) or "yes" for task in registry()}
    able["reconstruction"] = "yes" if checkpoint.decoder else "the file holds no decoder"
    return able


def _count(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() for t in tensors.values())


def lines(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The card as (heading, text), for people."""
    encoder, decoder, head = card["encoder"], card["decoder"], card["head"]
    known = card["published"]
    rows = [
        ("file", f"{card['file']} ({card['bytes'] / 1e6:,.1f} MB)"),
        ("sha256", card["sha256"]),
        (
            "published file",
            f"{known['file']}, by its {known['by']}: {known['content']}" if known else "none that is known",
        ),
        ("layout", f"{card['layout']}; row {card['method']!r} of the tables"),
        ("encoder", _encoder_line(encoder) if "grid" in encoder else _any_encoder_line(encoder)),
        *([("positions", _position_line(encoder))] if "positions" in encoder else []),
        *_source_lines(card["sources"]),
        *_preprocessing_lines(card["preprocessing"]),
        ("head", _head_line(head) if head is not None else _dense_line(card)),
        ("decoder", "none" if decoder is None else _decoder_line(decoder)),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in card["parameters"].items() if count)),
    ]
    if card["left_aside"]:
        first = ", ".join(card["left_aside"][:3])
        rows.append(("left aside", f"{len(card['left_aside'])} tensors that nothing is made of: {first} …"))
    if card["not_run"]:
        first = ", ".join(card["not_run"][:5])
        rows.append(("passed over", f"{first}: objects that only code could make; none was run"))
    return [*rows, *((f"for {task}", text) for task, text in card["tasks"].items())]


def _any_encoder_line(encoder: dict[str, Any]) -> str:
    height, width = encoder["img_size"]
    strides = sorted({stage["stride"] for stage in encoder["stages"]})
    parts = [
        f"{encoder['arch']} ({encoder['net']}): width {encoder['width']}, {height} x {width} px",
        f"{len(encoder['stages'])} outputs of stride {', '.join(map(str, strides))}",
        "class token" if encoder["class_token"] else "no class token",
        f"{encoder['registers']} registers" if encoder["registers"] else "",
    ]
    return ", ".join(part for part in parts if part)


def _source_lines(sources: dict[str, str]) -> list[tuple[str, str]]:
    """Where the architecture is known from."""
    by_source: dict[str, list[str]] = {}
    for fact, where in sources.items():
        by_source.setdefault(where, []).append(fact)
    return [("known from", f"{' and '.join(facts)}: {where}") for where, facts in by_source.items()]


def _preprocessing_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Facts of one source on one line."""
    by_source: dict[str, list[str]] = {}
    for name, value in facts.items():
        if name != "source":
            shown = (
                "not known"
                if value is None
                else " ".join(f"{v:g}" for v in value)
                if isinstance(value, list)
                else value
            )
            by_source.setdefault(facts["source"].get(name, ""), []).append(f"{name} {shown}")
    return [("preprocessing", f"{', '.join(said)}: from {where}") for where, said in by_source.items()]


def _encoder_line(encoder: dict[str, Any]) -> str:
    rows, columns = encoder["grid"]
    height, width = encoder["img_size"]
    parts = [
        f"{encoder['arch']}: width {encoder['width']}, depth {encoder['depth']}, {encoder['heads']} heads",
        f"{height} x {width} px in {rows} x {columns} patches of {encoder['patch_size']} px",
        "class token" if encoder["class_token"] else "no class token",
        f"{encoder['registers']} registers" if encoder["registers"] else "",
        "LayerScale" if encoder["layer_scale"] else "",
        "" if encoder["final_norm"] else "no final norm",
    ]
    return ", ".join(part for part in parts if part)


def _position_line(encoder: dict[str, Any]) -> str:
    text = _POSITIONS[encoder["positions"]]
    if not encoder["relative_bias"]:
        return text
    return "relative (BEiT's bias)" if encoder["positions"] == "none" else f"{text}, and relative (BEiT's bias)"


def _dense_line(card: dict[str, Any]) -> str:
    """What is known of a detector's or segmenter's heads: `mae-bench run` evaluates them and trains on from them."""
    trained = card["trained_for"]
    return "none" if trained is None else f"whole model for {trained}, evaluated with --set schedule.iterations=0"


def _head_line(head: dict[str, Any]) -> str:
    classes = f"{head['classes']} classes, " if head["classes"] else "no classifier, "
    return f"{classes}on the {head['pooling']}" + (" through a BatchNorm (linear probe)" if head["batch_norm"] else "")


def _decoder_line(decoder: dict[str, Any]) -> str:
    target = decoder["target"] or "target not known"
    return (
        f"width {decoder['width']}, depth {decoder['depth']}, {decoder['heads']} heads; predicts {target} "
        f"({decoder['outputs']} numbers a patch), by {decoder['target_told_by']}"
    )
