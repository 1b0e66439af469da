"""Labels of ImageNet's official validation archive, whose images lie in no class folder: they are in the development kit.

``ILSVRC2012_devkit_t12.tar.gz`` (or its folder) beside ``ILSVRC2012_img_val.tar`` lists class numbers of its own by image, and
has a MATLAB file that says which synset each number is. Kaggle's ``LOC_val_solution.csv`` will do as well.
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from backbones.errors import UserError
from tasks.datasets.imagenet import synsets
from tasks.datasets.layouts.listed import KAGGLE_LIST, kaggle_labels
from tasks.datasets.layouts.reader import Reader

_KIT = "ILSVRC2012_devkit_t12"
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.")


def is_official(reader: Reader) -> bool:
    """Whether a split is ImageNet's validation images without class folders."""
    return reader.class_names == [""] and _NUMBER.search(reader.name(0)) is not None


def label(reader: Reader, base: Path) -> Reader:
    """`reader` with the labels of the development kit under `base`, as indices among the sorted synsets.

    Raises:
        UserError: no kit there, it cannot be read, or an image's number is not in it.
    """
    if (listing := base / KAGGLE_LIST).is_file() and not (base / _KIT).is_dir():
        return _label_by_list(reader, listing)
    truth = _truth(base, reader)
    labels = np.empty(len(reader), np.int64)
    for i in range(len(reader)):
        number = _NUMBER.search(reader.name(i))
        if number is None or not 1 <= int(number[1]) <= len(truth):
            raise UserError(
                f"{reader.place(i)}: the development kit has labels of ILSVRC2012_val_00000001 to {len(truth):08d}"
            )
        labels[i] = truth[int(number[1]) - 1]
    reader.labels, reader.class_names = labels, list(synsets())
    return reader


def _label_by_list(reader: Reader, listing: Path) -> Reader:
    """`reader` with the labels of Kaggle's list."""
    index = {name: i for i, name in enumerate(synsets())}
    known = kaggle_labels(listing, index.__getitem__)
    ids = [reader.name(i).rpartition("/")[2].partition(".")[0] for i in range(len(reader))]
    bare = next((i for i, image in enumerate(ids) if image not in known), None)
    if bare is not None:
        raise UserError(f"{reader.place(bare)}: {listing} has no label of it")
    reader.labels, reader.class_names = np.array([known[image] for image in ids], np.int64), list(synsets())
    return reader


def _truth(base: Path, reader: Reader) -> NDArray[np.int64]:
    """Class index by image number."""
    folder, archive = base / _KIT, base / f"{_KIT}.tar.gz"
    try:
        if (folder / _META).is_file():
            truth, meta = (folder / _TRUTH).read_text(), (folder / _META).read_bytes()
        elif archive.is_file():
            with tarfile.open(archive, "r:gz") as tar:
                truth, meta = _member(tar, _TRUTH).decode(), _member(tar, _META)
        else:
            raise UserError(
                f"{reader.root}: these validation images carry no labels: put {_KIT}.tar.gz beside them in {base} "
                f"(or Kaggle's {KAGGLE_LIST}), or sort them into class folders"
            )
        index = {name: i for i, name in enumerate(synsets())}
        rows = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        # Inner nodes of WordNet's tree are in the list too; they have children and are no class.
        numbers = {int(row["ILSVRC2012_ID"]): index[str(row["WNID"])] for row in rows if not row["num_children"]}
        return np.array([numbers[int(line)] for line in truth.split()], np.int64)
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, tarfile.TarError) as e:
        raise UserError(
            f"{base}/{_KIT}: development kit not readable ({type(e).__name__}: {e}): download it again"
        ) from e


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"{_KIT}/{name}")
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()
