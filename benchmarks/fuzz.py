"""Damaged and hostile files against the doors that files of strangers come in by: what crashes, hangs or eats memory.

    OMP_NUM_THREADS=1 nice .venv/bin/python benchmarks/fuzz.py --inputs 100000 --targets pickles

Inputs are drawn from a seed: honest files whose bytes, opcodes or words are changed, dropped, repeated and spliced. A process
apart reads them one by one. Counted: inputs that were read, inputs that were refused in one line, any other exception, deaths
of the process (a crash in compiled code), inputs that took longer than 10 s, inputs that took more than 2 GiB. Nothing but the
first two should be counted; the input behind each count of the other kinds is put into the folder ``--keep``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import pickle
import pickletools
import random
import resource
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from pycocotools import mask as run_length

from backbones.errors import UserError
from backbones.files.tensor_files import read_tensors, save_tensors
from backbones.vit.encoder import create_encoder
from mae_bench.recipes.load import as_dict, load_recipe
from mae_bench.records import record
from tasks.datasets.decoding import read_rgb
from tasks.datasets.layouts.find import open_path
from tasks.datasets.layouts.listed import open_list
from tasks.datasets.pictures import FORMATS
from tasks.detection.annotations import read_content

SECONDS = 10.0
MEMORY = 2 << 30
ODD_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**64 - 1)


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        seeds: honest files of the kind.
        mutate: another file from one of them.
        name: what it is called on disk.
        read: the door.
    """

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[random.Random, list[bytes]], bytes]
    name: str
    read: Callable[[Path], object]


def mutate_bytes(draw: random.Random, seeds: list[bytes]) -> bytes:
    """Some changes of bits, bytes, numbers and slices; sometimes the head of one file and the tail of another."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(len(content)) if content else 0
        kind = draw.randrange(7)
        if kind == 0 and content:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and content:
            content[at] = draw.randrange(256)
        elif kind == 2:
            number = draw.choice(ODD_NUMBERS)
            packed = struct.pack("<Q", number)[: draw.choice((1, 2, 4, 8))]
            content[at : at + len(packed)] = packed
        elif kind == 3:
            del content[at : at + draw.choice((1, 4, 16, 64, 512))]
        elif kind == 4:
            piece = content[at : at + draw.choice((1, 8, 64, 512))]
            where = draw.randrange(len(content) + 1)
            content[where:where] = piece * draw.choice((1, 1, 2, 100))
        elif kind == 5:
            del content[at:]
        else:
            other = draw.choice(seeds)
            content[at:] = other[draw.randrange(len(other)) :]
    return bytes(content)


def opcodes(content: bytes) -> list[bytes]:
    """A pickle cut into its opcodes with their arguments."""
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    return [content[a:b] for a, b in zip(places, [*places[1:], len(content)], strict=True)]


def mutate_pickle(draw: random.Random, seeds: list[bytes]) -> bytes:
    """Opcodes dropped, repeated, swapped, taken from other pickles or from `ODD_OPCODES`; or bytes changed."""
    if draw.random() < 0.2:
        return mutate_bytes(draw, seeds)
    codes = opcodes(draw.choice(seeds))
    for _ in range(draw.choice((1, 2, 4, 16, 64))):
        at = draw.randrange(len(codes)) if codes else 0
        kind = draw.randrange(5)
        if kind == 0:
            codes[at : at + 1] = []
        elif kind == 1:
            codes.insert(at, draw.choice(ODD_OPCODES))
        elif kind == 2 and codes:
            codes.insert(at, draw.choice(codes))
        elif kind == 3 and codes:
            other = draw.randrange(len(codes))
            codes[at], codes[other] = codes[other], codes[at]
        else:
            piece = opcodes(draw.choice(seeds))
            begin = draw.randrange(len(piece))
            codes[at:at] = piece[begin : begin + draw.choice((1, 3, 10))]
    return b"".join(codes)


ODD_OPCODES = [
    *(b"R", b"b", b"\x81", b"\x92", b"o", b"0", b"1", b"2", b"(", b"t", b"l", b"d", b"s", b"u", b"e", b"a", b"Q"),
    *(b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"\x97", b"\x98", b"}", b"]", b")"),
    *(b"h\x01", b"h\x02", b"h\x03", b"q\x01", b"q\x02", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"N", b"\x88"),
    *(b"K\x00", b"K\x01", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"G" + b"\x7f\xf8" + b"\0" * 6),
    *(b"C\x04abcd", b"C\x08" + b"\x41" * 8, b"X\x01\x00\x00\x00O", b"X\x02\x00\x00\x00V8", b"X\x02\x00\x00\x00f4"),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n", b"c_codecs\nencode\n"),
    *(
        b"ccollections\nOrderedDict\n",
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"cbuiltins\ngetattr\n",
        b"ctorch\nSize\n",
    ),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n"),
]


def small_state() -> dict[str, torch.Tensor]:
    """A whole encoder of a few kilobytes' pickle."""
    torch.manual_seed(0)
    return create_encoder("vit_micro_patch8", img_size=16).state_dict()


def array_pickles() -> list[bytes]:
    """As detectron2 has them, and the one of issue 19 that crashed numpy."""
    arrays: dict[str, Any] = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, dtype=np.int64),
        "c": np.arange(3, dtype=">f4"),
        "d": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }
    content = {"model": OrderedDict(arrays), "step": np.float32(1), "x": {1, 2}, "y": np.array(["x", None])}
    fields = b"".join(
        (
            b"\x80\x03cnumpy\ndtype\n(X\x02\0\0\0V8K\0K\x01tRq\x01",  # a dtype of eight bytes
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\x01btRq\x02",
            b"(K\x01(K\x01th\x01\x89C\x08AAAAAAAAtb0",  # an array of it, which takes the bytes as they are
            b"cnumpy\ndtype\n(X\x01\0\0\0OK\0K\x01tRq\x030",
            b"h\x01(K\x03X\x01\0\0\0|N(X\x01\0\0\0at}X\x01\0\0\0a(h\x03K\0tsK\x08K\x01K?tb0",  # now it is a pointer
            b"}X\x05\0\0\0modelh\x02s.",
        )
    )
    return [*(pickle.dumps(content, protocol) for protocol in (2, 3, 4, 5)), fields]


def torch_files() -> list[bytes]:
    """Both formats of torch.save."""
    files = []
    for legacy in (False, True):
        for content in ({"model": small_state(), "epoch": 3}, torch.nn.Linear(2, 2), {"a": torch.ones(2).half()}):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
            files.append(buffer.getvalue())
    return files


def mutate_torch(draw: random.Random, seeds: list[bytes]) -> bytes:
    """The pickle in a zip by opcodes, with a zip around it that is in order; else bytes."""
    seed = draw.choice(seeds)
    if not seed.startswith(b"PK") or draw.random() < 0.3:
        return mutate_bytes(draw, seeds)
    source, buffer = zipfile.ZipFile(io.BytesIO(seed)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, mutate_pickle(draw, [content]) if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def safetensors_files() -> list[bytes]:
    """Ours, with metadata."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_tensors(path, {"a": torch.ones(2, 3), "b": torch.zeros(4).half()}, {"method": "MAE", "img_size": 16})
        return [path.read_bytes()]


def recipes() -> list[bytes]:
    """A whole one, and two that override it, with an anchor and an alias."""
    whole = yaml.safe_dump(as_dict(load_recipe("finetune/vit_micro_patch8_embedded"))).encode()
    child = (
        b"base: finetune/vit_micro_patch8_embedded\ntitle: &a mine\ndata: {name: mine, options: {a: [1, 2]}}\nseed: 3\n"
    )
    return [whole, child, child + b"train: {batch_size: 10, workers: 0}\npublished: *a\n"]


WORDS = (
    *(
        b"- ",
        b"? ",
        b": ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a ",
        b"<<: *a\n",
        b"!!python/object:os.system ",
        b"|",
        b">",
    ),
    *(
        b"${",
        b"}",
        b"'",
        b'"',
        b"#",
        b"\n",
        b"  ",
        b"null",
        b"~",
        b".inf",
        b".nan",
        b"1e999",
        b"0x",
        b"-1",
        b"10000000000000",
    ),
    *(b"true", b"[" * 50, b"{a: " * 50, b"\xff", b"\0", b"\xe2\x80\xae", b"!!binary ", b"!!set ", b"../" * 3, b"\t"),
)


def mutate_text(draw: random.Random, seeds: list[bytes]) -> bytes:
    """Words put in, lines dropped, repeated and swapped; or bytes changed."""
    if draw.random() < 0.3:
        return mutate_bytes(draw, seeds)
    content = draw.choice(seeds)
    for _ in range(draw.choice((1, 2, 4, 16))):
        at = draw.randrange(len(content) + 1)
        kind = draw.randrange(3)
        if kind == 0:
            content = content[:at] + draw.choice(WORDS) + content[at:]
        else:
            lines = content.splitlines(keepends=True) or [b""]
            line = draw.randrange(len(lines))
            lines[line : line + 1] = [] if kind == 1 else [lines[line], draw.choice(lines)]
            content = b"".join(lines)
    return content


def coco_jsons() -> list[bytes]:
    """A whole one of two images, with a polygon and both forms of RLE."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in range(2)]
    box = {"category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    outlines: list[Any] = [
        [[5, 5, 25, 5, 25, 25, 5, 25]],
        {"size": [64, 64], "counts": [100, 50, 3946]},
        {
            "size": [64, 64],
            "counts": run_length.encode(np.asfortranarray(np.eye(64, dtype=np.uint8)))["counts"].decode(),
        },
    ]
    objects = [{**box, "id": i + 1, "image_id": i % 2, "segmentation": each} for i, each in enumerate(outlines)]
    whole = {"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": objects}
    return [json.dumps(whole, indent=1).encode(), json.dumps({**whole, "annotations": objects[:1]}).encode()]


def read_coco(path: Path) -> object:
    """As detection does."""
    return read_content(path)


def picture(kind: str = "PNG") -> bytes:
    """A small one."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def pictures() -> list[bytes]:
    """A small one of every format."""
    Image.init()
    return [picture(kind) for kind in FORMATS if kind in Image.SAVE]


def read_picture(path: Path) -> object:
    """Decoded whole."""
    return read_rgb(path)


def lists() -> list[bytes]:
    """Of path and label, with blanks or commas."""
    rows = [f"{i}.png {i % 2}" for i in range(4)]
    return ["\n".join(rows).encode() + b"\n", "\n".join(row.replace(" ", ",") for row in rows).encode() + b"\n"]


def read_list(path: Path) -> object:
    """The list, and the files that it names."""
    for i in range(4):
        if not (path.parent / f"{i}.png").exists():
            (path.parent / f"{i}.png").write_bytes(picture())
    reader = open_list(path.parent, path, "train")
    return [reader.encoded(i) for i in range(len(reader.labels))]


def tars() -> list[bytes]:
    """Images in class folders, and shards of images with their labels."""
    files = []
    for names in (("a/0.png", "b/1.png", "a/2.png"), ("0.png", "0.cls", "1.png", "1.cls")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in names:
                content = b"1" if name.endswith("cls") else picture()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        files.append(buffer.getvalue())
    return files


def read_tar(path: Path) -> object:
    """The index, and the files in it."""
    reader = open_path(path)
    return [reader.encoded(i) for i in range(len(reader.labels))]


def records() -> list[bytes]:
    """One of every kind of value."""
    return [(Path(__file__).resolve().parents[1] / "tests/mae_bench/records/record_version_1.json").read_bytes()]


TARGETS = {
    "pickles": Target(array_pickles, mutate_pickle, "x.pkl", read_tensors),
    "torch files": Target(torch_files, mutate_torch, "x.pth", read_tensors),
    "safetensors": Target(safetensors_files, mutate_bytes, "x.safetensors", read_tensors),
    "YAML": Target(recipes, mutate_text, "x.yaml", lambda path: load_recipe(str(path))),
    "COCO json": Target(coco_jsons, mutate_text, "x.json", read_coco),
    "lists": Target(lists, mutate_text, "train.txt", read_list),
    "tars": Target(tars, mutate_bytes, "train.tar", read_tar),
    "pictures": Target(pictures, mutate_bytes, "x.png", read_picture),
    "records": Target(records, mutate_text, "record.json", record.read),
}


def draw_input(target: Target, seeds: list[bytes], seed: int) -> bytes:
    """The input of that number, the same on every machine."""
    return target.mutate(random.Random(seed), seeds)


def peak_memory() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(name: str, folder: str, first: int, last: int, answers: Any) -> None:
    """Reads inputs `first` … `last` - 1; says before each that it begins and after each what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (8 * MEMORY, 8 * MEMORY))  # for the machine's sake
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    target = TARGETS[name]
    path, seeds = Path(folder) / target.name, target.seeds()
    for number in range(first, last):
        path.write_bytes(draw_input(target, seeds, number))
        before = peak_memory()
        answers.send((number, "began", ""))
        outcome, detail = "read", ""
        try:
            target.read(path)
        except UserError:
            outcome = "refused"
        except BaseException as e:
            outcome, detail = "other exceptions", f"{type(e).__name__}: {e}"
        if peak_memory() - before > MEMORY:
            outcome = "over 2 GiB"
        answers.send((number, outcome, detail))
    answers.send((last, "end", ""))


COUNTS = ("read", "refused", "other exceptions", "crashes", "over 10 s", "over 2 GiB")


def fuzz(name: str, inputs: int, keep: Path | None, first: int = 0) -> dict[str, int]:
    """Counts over `inputs` inputs of a target; the process is started anew after what stopped it."""
    count = dict.fromkeys(COUNTS, 0)
    context = multiprocessing.get_context("fork")
    end = first + inputs
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        while first < end:
            answers, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(name, folder, first, end, theirs), daemon=True)
            process.start()
            theirs.close()
            first = listen(process, answers, first, count, lambda number, kind: _keep(name, number, kind, keep))
            process.kill()
            process.join()
    return count


def listen(process: Any, answers: Any, number: int, count: dict[str, int], report: Callable[[int, str], None]) -> int:
    """Takes answers until the process ends or takes too long; the number of the input to go on with."""
    while True:
        if not answers.poll(SECONDS):
            outcome, detail = "over 10 s", ""
        else:
            try:
                number, outcome, detail = answers.recv()
            except EOFError:
                process.join()
                outcome, detail = "crashes", f"exit code {process.exitcode}"
        if outcome == "end":
            return number
        if outcome == "began":
            continue
        count[outcome] += 1
        if outcome not in ("read", "refused"):
            report(number, f"{outcome} {detail}")
        if outcome in ("crashes", "over 10 s", "over 2 GiB"):
            return number + 1


def _keep(name: str, number: int, kind: str, folder: Path | None) -> None:
    print(f"{name} {number}: {kind[:200]}", file=sys.stderr, flush=True)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        target = TARGETS[name]
        (folder / f"{name.replace(' ', '_')}_{number}_{target.name}").write_bytes(
            draw_input(target, target.seeds(), number)
        )


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="of each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to go on from an earlier run")
    parser.add_argument("--targets", help="comma-separated, default all: " + ", ".join(TARGETS))
    parser.add_argument("--keep", type=Path, help="folder for inputs that do what none should")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.targets.split(",") if options.targets else list(TARGETS)
    counts = {}
    if not options.json:
        print(f"| target | inputs | seconds | {' | '.join(COUNTS)} |\n|{'---|' * (len(COUNTS) + 3)}", flush=True)
    for name in names:
        began = time.monotonic()
        counts[name] = fuzz(name, options.inputs, options.keep, options.first)
        if not options.json:
            cells = [name, options.inputs, round(time.monotonic() - began), *counts[name].values()]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if options.json:
        print(json.dumps(counts, indent=1))
    with contextlib.suppress(BrokenPipeError):
        sys.exit(any(count[kind] for count in counts.values() for kind in COUNTS[2:]))


if __name__ == "__main__":
    main()
