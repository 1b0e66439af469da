"""Features that are extracted once and kept in the cache folder, as memory-mapped ``.npy`` files. No use of them here.

One folder (``features-DIGEST``) for everything that features depend on but layer and pooling: the encoder's weights, the images
and their order, the transform, input size, precision and storage; ``about.json`` says what the folder belongs to. In it, a file
for each layer and pooling, which appears under its name when it is whole; a use that wants others adds those. The name ends in
the file's checksum, which is looked at before it is used: jobs that make the same at once, on machines that round otherwise,
leave two files, each of them right, and none takes away what another one has just made.

Under torchrun each process extracts a contiguous share of the images into the same files, so the cache folder has to be one
that all machines see.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from backbones.atomic import write_json
from backbones.encoders.contract import Encoder
from backbones.encoders.features import Feature
from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError, unknown
from backbones.files.tensor_files import sha256_file
from tasks.datasets.cache_folder import default_cache_root
from tasks.datasets.decoding import WHITE
from tasks.datasets.images import ImageSet, TransformedImages
from tasks.datasets.transforms import eval_crop
from tasks.features.array_files import ArrayFiles
from tasks.features.extract import PRECISIONS, feature_batches
from tasks.progress import progress

FORMAT = 3
"""To be raised with every change that alters features: old folders are then left alone."""
STORES = {"fp16": "float16", "fp32": "float32"}
_WAY_OUT = "set MAE_BENCH_CACHE to another disk, keep fewer features.layers, or features.store=fp16"
_ABANDONED_SECONDS = 86_400.0
_STEM = "tokens"
_ABOUT = "about.json"


@dataclass(frozen=True)
class Source:
    """What makes features of images: the encoder and how images come to it."""

    encoder: Encoder
    checkpoint: str | None  # sha256, None from scratch
    used: Preprocessing
    precision: str  # of the encoder
    store: str  # fp16: half the room; rounds by 2^-11 of a value, less than bf16 arithmetic does
    batch_size: int = 64
    workers: int = 2

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise unknown("storage", self.store, STORES, where="features.store")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS, where="train.precision")
        if self.batch_size < 1:
            raise UserError(f"features.batch_size={self.batch_size}: give at least 1")


def kept_features(
    source: Source, images: ImageSet, wanted: Sequence[Feature], cache_root: Path | None = None
) -> dict[str, NDArray[Any]]:
    """Name of each feature of `wanted` -> read-only memory map (N, *shape), in the order of `images`; made when missing.

    All processes call it and get the same files.

    Raises:
        UserError: an image cannot be read, the cache folder cannot be written or is full, a value is too large for fp16, or
            other files lie under these names.
    """
    key = _key(source, images)
    folder = (cache_root or default_cache_root()) / f"features-{_digest(key)}"
    found, problem = _look(folder, wanted, len(images)) if PartialState().is_main_process else ({}, "")
    found, problem, tag = _agree([found, problem, uuid.uuid4().hex])
    if problem:
        raise UserError(problem)
    if missing := [feature for feature in wanted if _name(feature) not in found]:
        found |= _extract(source, images, missing, folder, tag, key)
    return {feature.name: _open(folder / found[_name(feature)], (len(images), *feature.shape)) for feature in wanted}


def _look(folder: Path, wanted: Sequence[Feature], rows: int) -> tuple[dict[str, str], str]:
    """The sound files of features by `_name`, and what is wrong with one that is not; looked at by one process."""
    names, found = _listed(folder), {}
    for feature in wanted:
        pattern = re.compile(rf"{_STEM}-{re.escape(_name(feature))}-([0-9a-f]{{64}})\.npy")
        match = next(filter(None, map(pattern.fullmatch, names)), None)
        if match is None:
            continue
        file = folder / match[0]
        try:
            _open(file, (rows, *feature.shape))
            if sha256_file(file) != match[1]:
                return {}, f"{file}: damaged, its checksum is another than when it was written: delete it"
        except UserError as e:
            return {}, str(e)
        except OSError as e:
            return {}, f"{file}: not readable ({e.strerror}): delete it"
        found[_name(feature)] = match[0]
    return found, ""


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # there is none, or `_make_folder` will say it


def _key(source: Source, images: ImageSet) -> dict[str, Any]:
    """Everything that the kept features depend on, layer and pooling aside."""
    names = hashlib.sha256()
    for i, label in enumerate(images.labels):
        names.update(f"{images.relative_name(i)}\0{label}\n".encode(errors="surrogateescape"))
    return {
        "format": FORMAT,
        "checkpoint": source.checkpoint,
        "arch": source.encoder.arch,
        "weights": _weights_digest(source.encoder.net),  # a start from scratch has no file to tell it by
        "data": images.fingerprint(),
        "modified": images.reader.modified(),  # other images may be as large as those that were there before
        "split": images.split,
        "rows": len(images),
        "names": names.hexdigest(),  # which images, in which order
        "transform": " ".join(str(eval_crop(source.used)).split()),
        "mean": list(source.used.mean or ()),
        "std": list(source.used.std or ()),
        "img_size": source.used.img_size[0],
        "precision": source.precision,
        "store": source.store,
        **({} if images.white == WHITE else {"white": images.white}),
    }


def _weights_digest(encoder: nn.Module) -> str:
    digest = hashlib.sha256(
        f"{type(encoder).__name__} {encoder}".encode()
    )  # names norms, activations and their settings
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _name(feature: Feature) -> str:
    """In the names of files; the same block is kept apart with and without the final norm."""
    return feature.name + ("-norm" if feature.norm else "")


def _agree(value: Any) -> Any:
    """The main process's `value`, for all of them."""
    if PartialState().num_processes == 1:
        return value
    return broadcast_object_list([value], from_process=0)[0]


def _extract(
    source: Source, images: ImageSet, missing: list[Feature], folder: Path, tag: str, key: dict[str, Any]
) -> dict[str, str]:
    """Writes the files of `missing`, each process its share of the rows, and names them; an error or Ctrl-C leaves none."""
    state = PartialState()
    if state.is_main_process:
        _make_folder(folder)
    state.wait_for_everyone()
    files = ArrayFiles(
        folder / f"{_STEM}.npy",
        {_name(feature): (len(images), *feature.shape) for feature in missing},
        dtype=STORES[source.store],
        where=f"kept features {folder}",
        way_out=_WAY_OUT,
        tag=tag,
        always_named=True,
    )
    written: list[str] = []
    # The main process makes the files, and gives them their names when all have written.
    if state.is_main_process:
        with files:
            state.wait_for_everyone()
            _all_or_none(lambda: _fill(files, source, images, missing))
            write_json(folder / _ABOUT, key)
            written = [file.name for file in files.commit(_with_checksum)]
    else:
        state.wait_for_everyone()
        _all_or_none(lambda: _join(files, source, images, missing))
    return dict(zip(map(_name, missing), _agree(written), strict=True))


def _with_checksum(file: Path, final: Path) -> Path:
    return final.with_name(f"{final.stem}-{sha256_file(file)}.npy")


def _join(files: ArrayFiles, source: Source, images: ImageSet, missing: list[Feature]) -> None:
    with files.shared():
        _fill(files, source, images, missing)


def _all_or_none(work: Callable[[], None]) -> None:
    """Does this process's part and waits for the others; the UserError of any of them is everybody's."""
    problem = None
    try:
        work()
    except UserError as e:
        problem = str(e)
    if PartialState().num_processes > 1:
        problem = next(filter(None, gather_object([problem])), None)
    if problem is not None:
        raise UserError(problem)


def share(count: int, process: int, processes: int) -> range:
    """The rows of one process: contiguous, since archives are read in order; every row is in one share."""
    return range(count * process // processes, count * (process + 1) // processes)


def _fill(files: ArrayFiles, source: Source, images: ImageSet, missing: list[Feature]) -> None:
    state = PartialState()
    rows = share(len(images), state.process_index, state.num_processes)
    batches = feature_batches(
        source.encoder,
        missing,
        TransformedImages(images, eval_crop(source.used)),
        rows,
        device=state.device,
        batch_size=source.batch_size,
        workers=source.workers,
        precision=source.precision,
    )
    # Processes have about equal shares: the main one's stands for all.
    with progress(f"features of {images.split}", len(rows), active=state.is_main_process) as advance:
        for start, found in batches:
            for feature, values in zip(missing, found, strict=True):
                files.write(_name(feature), start, _stored(values, source.store, feature))
            advance(start - rows.start + len(found[0]))


def _stored(values: Tensor, store: str, feature: Feature) -> NDArray[Any]:
    """As it goes to disk."""
    with np.errstate(over="ignore"):  # told below
        stored = values.numpy().astype(STORES[store])
    if not np.isfinite(stored).all():
        largest = values.abs().max().item()
        way_out = "features.store=fp32" if np.isfinite(values.numpy()).all() else "train.precision=fp32"
        raise UserError(f"{feature.name}: a value of {largest:g} does not fit: --set {way_out}")
    return stored


def _make_folder(folder: Path) -> None:
    """Makes it, and removes from it what killed processes left behind; younger files may still be in the making."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob(".*.tmp*"):
            if time.time() - file.stat().st_mtime > _ABANDONED_SECONDS:
                file.unlink(missing_ok=True)
    except OSError as e:
        raise UserError(
            f"kept features {folder}: cannot make this folder ({e.strerror}): set MAE_BENCH_CACHE to one that is writable"
        ) from e


def _open(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise UserError(
            f"{file}: not readable ({e}): delete it; with several machines MAE_BENCH_CACHE must be a folder that all see"
        ) from e
    if found.shape != shape:
        raise UserError(f"{file}: holds {found.shape}, expected {shape}: delete it")
    return found
