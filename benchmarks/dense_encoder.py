"""Time and peak memory of the encoder for dense tasks, ours beside detectron2's ViT: same sizes, same weights, same images.

Every reading is of a process of its own, so that peak memory is one encoder's; they take turns, in another order each round.
A reading is a forward pass without gradients, or one with its backward pass, after one that is not timed. Features of both are
compared. Prints a markdown table with ratios, or JSON with every reading under ``--json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import zlib
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    "ours": "backbones.vit.dense.DenseEncoder",
    "detectron2": "detectron2.modeling.backbone.vit.ViT",
}
PRECISIONS = ("fp32", "bf16")
MODES = {"forward": "forward", "train": "forward + backward"}
ARCHS = {"base": (768, 12, 12), "large": (1024, 24, 16), "micro": (128, 4, 4)}  # width, depth, heads
PATCH, WINDOW, PRETRAINED = 16, 14, 224
SAMPLES = 64  # values of the features that are compared


def ours(arch: str, img_size: int) -> Any:
    """This repository's, built as `tasks.detection.model` builds it."""
    sys.path.insert(0, str(ROOT))
    from torch import nn

    from backbones.vit.dense import DenseEncoder
    from backbones.vit.encoder import create_encoder

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder = create_encoder(f"vit_{arch}_patch{PATCH}", img_size=PRETRAINED)
            self.net = DenseEncoder(encoder, img_size=img_size, window_size=WINDOW, rel_pos=True)

        def forward(self, images: Any) -> Any:
            return self.net(images)[-1]

    return Last()


def detectron2(arch: str, img_size: int) -> Any:
    """As its configs/common/models/mask_rcnn_vitdet.py has it; no drop path, as ours has none here."""
    from detectron2.modeling.backbone.vit import ViT
    from torch import nn

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width, depth, heads = ARCHS[arch]
            self.net = ViT(
                img_size=img_size,
                patch_size=PATCH,
                embed_dim=width,
                depth=depth,
                num_heads=heads,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                window_size=WINDOW,
                window_block_indexes=[i for i in range(depth) if (i + 1) % (depth // 4)],
                use_rel_pos=True,
                pretrain_img_size=PRETRAINED,
            )

        def forward(self, images: Any) -> Any:
            return self.net(images)["last_feat"]

    return Last()


def same_weights(model: Any) -> None:
    """Weights that depend on nothing but a parameter's name and shape, the same for both."""
    import torch

    for name, parameter in model.named_parameters():
        name = name.removeprefix("net.").removeprefix("encoder.")
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        patches = (PRETRAINED // PATCH) ** 2
        shape = (1, patches, parameter.shape[2]) if name == "pos_embed" else parameter.shape
        scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        values = scale + 0.02 * torch.randn(shape, generator=generator)
        with torch.no_grad():
            parameter[:, -patches:].copy_(values) if name == "pos_embed" else parameter.copy_(values)


def read(args: argparse.Namespace) -> dict[str, Any]:
    """One encoder in this process: seconds of each repeat, bytes above the loaded model, and some of the features."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = ours if args.read == "ours" else detectron2
    model = peer(args.arch, args.img_size).to(device)
    same_weights(model)
    images = torch.randn(args.batch_size, 3, args.img_size, args.img_size, generator=torch.Generator().manual_seed(0))
    images = images.to(device)
    before = _peak(device)
    train, seconds = args.mode == "train", []
    for _ in range(1 + args.repeats):
        _wait(device)
        begin = time.perf_counter()
        with torch.set_grad_enabled(train), torch.autocast(device, torch.bfloat16, enabled=args.precision == "bf16"):
            features = model(images)
        if train:
            features.float().square().mean().backward()
            model.zero_grad(set_to_none=True)
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    sample = features.detach().float().flatten()[:: max(1, features.numel() // SAMPLES)]
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "seconds": seconds[1:],
        "bytes": _peak(device) - before,
        "sample": sample.tolist(),
        "device": name,
        "torch": torch.__version__,
    }


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _peak(device: str) -> int:
    """Most bytes so far: of tensors on a GPU, of the whole process on a CPU."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All readings; a peer that fails is left out, with the reason."""
    result: dict[str, Any] = {"img_size": args.img_size, "arch": args.arch, "readings": {}, "left_out": {}}
    for precision in args.precisions:
        for mode in args.modes:
            for i in range(args.rounds):
                for peer in list(PEERS)[:: 1 if i % 2 == 0 else -1]:
                    if peer not in result["left_out"]:
                        _add(result, peer, precision, mode, args)
    return result


def _add(result: dict[str, Any], peer: str, precision: str, mode: str, args: argparse.Namespace) -> None:
    command = [sys.executable, "-W", "ignore", __file__, "--read", peer, "--precision", precision, "--mode", mode]
    for name in ("arch", "img_size", "batch_size", "repeats"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        result["left_out"][peer] = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        return
    reading = json.loads(done.stdout.splitlines()[-1])
    result["device"], result["torch"] = reading.pop("device"), reading.pop("torch")
    found = result["readings"].setdefault(f"{precision} {mode}", {})
    known = found.setdefault(peer, {"seconds": [], "bytes": [], "sample": reading["sample"]})
    known["seconds"] += reading["seconds"]
    known["bytes"].append(reading["bytes"])


def difference(found: dict[str, Any]) -> float | None:
    """Largest difference of the features of both, against the largest feature."""
    if len(found) < 2:
        return None
    a, b = (found[peer]["sample"] for peer in PEERS)
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) / max(map(abs, b))


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each precision and pass, with both encoders and the ratios."""
    lines = [
        f"{result.get('device', '')}, torch {result.get('torch', '')}: ViT {result['arch']}, {result['img_size']} px",
        "",
        "| pass | precision | ours, s | detectron2, s | time, ours ÷ detectron2 | ours, MiB | detectron2, MiB "
        "| memory, ours ÷ detectron2 | difference of features |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in result["readings"].items():
        precision, mode = name.split()
        times = {peer: median(r["seconds"]) for peer, r in found.items()}
        spans = {
            peer: f"{times[peer]:.2f} ({min(r['seconds']):.2f}–{max(r['seconds']):.2f})" for peer, r in found.items()
        }
        memory = {peer: max(r["bytes"]) / 2**20 for peer, r in found.items()}
        both = len(found) == 2
        cells = [
            MODES[mode],
            precision,
            *(spans.get(peer, "–") for peer in PEERS),
            f"{times['ours'] / times['detectron2']:.2f}" if both else "–",
            *(f"{memory[peer]:,.0f}" if peer in memory else "–" for peer in PEERS),
            f"{memory['ours'] / memory['detectron2']:.2f}" if both else "–",
            f"{difference(found):.0e}" if both else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\nleft out: {peer} ({reason})" for peer, reason in result["left_out"].items()]
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", choices=ARCHS, default="base", help="micro only shows that the script works")
    parser.add_argument("--img-size", type=int, default=1024, help="pixels, a multiple of 16")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="processes for each encoder, precision and pass")
    parser.add_argument("--repeats", type=int, default=2, help="timed repeats in each process")
    parser.add_argument("--precisions", type=lambda v: v.split(","), default=list(PRECISIONS), help="fp32,bf16")
    parser.add_argument("--modes", type=lambda v: v.split(","), default=list(MODES), help="forward,train")
    parser.add_argument("--json", action="store_true", help="print every reading instead of the table")
    parser.add_argument("--read", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for given, known in ((args.precisions, PRECISIONS), (args.modes, MODES)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: give some of {', '.join(known)}")
    if min(args.rounds, args.repeats, args.batch_size) < 1 or args.img_size < PATCH or args.img_size % PATCH:
        parser.error(f"give 1 or more rounds, repeats and images, of a multiple of {PATCH} pixels")
    return args


def main() -> int:
    """Measures and prints; 1 when an encoder could not run."""
    args = parse()
    if args.read:
        print(json.dumps(read(args)))
        return 0
    result = measure(args)
    print(json.dumps(result, indent=1) if args.json else table(result))
    return 1 if result["left_out"] else 0


if __name__ == "__main__":
    sys.exit(main())
