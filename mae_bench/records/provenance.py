"""What a record says of its circumstances: software, source checkout, device, memory. Measures no model."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import importlib.util
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mae_bench.records.record import Command, Device, Git, Host

if TYPE_CHECKING:
    import torch

UNKNOWN = "unknown version"
# Import name -> the distributions that bring it; users may hold upstream's or the kept-up release.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "mae_bench": ("mae-bench",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "accelerate": ("accelerate",),
    "numpy": ("numpy",),
    "detectron2": ("detectron2", "sal-detectron2"),
    "pycocotools": ("pycocotools",),
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "mmcv-lite", "onedl-mmcv"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
}

# Variables that change how the same command computes: threads, which devices, arithmetic, determinism.
VARIABLES = (
    "ACCELERATE_*",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "GOMP_SPINCOUNT",
    "KMP_*",
    "LOCAL_WORLD_SIZE",
    "MAE_BENCH_*",
    "MKL_*",
    "NCCL_*",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_*",
    "OPENBLAS_NUM_THREADS",
    "PYTORCH_*",
    "SLURM_JOB_ID",
    "TORCH_*",
    "WORLD_SIZE",
)


def software() -> dict[str, str]:
    """Import name -> version, and the distribution where it is not upstream's; without missing packages."""
    versions = {"python": platform.python_version()}
    for module, distributions in _DISTRIBUTIONS.items():
        version = _version(module, distributions)
        if version is not None:
            versions[module] = version
    return versions


def _version(module: str, distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return version if name == distributions[0] else f"{version} ({name})"
    try:
        found = importlib.util.find_spec(module)  # a checkout on the path has no metadata
    except (ImportError, ValueError):
        found = None
    return None if found is None else _written_version(found.origin)


def _written_version(file: str | None) -> str:
    """The ``__version__`` of a package's first file, read without importing it: the same whether a run used it or not."""
    try:
        text = Path(file or "").read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found[1] if found else UNKNOWN


def git(root: Path | None = None) -> Git | None:
    """Commit of the checkout that this package runs from; None where it is installed, or git is missing."""
    root = root or Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # never the commit of some repository further up, such as the user's own
        return None
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    if not commit or changes is None:
        return None
    return Git(commit=commit, dirty=bool(changes))


def _git(root: Path, *arguments: str) -> str | None:
    # A hook's GIT_DIR would point git at another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def command() -> Command:
    """How this process was called, ``mae-bench`` in place of the path that it was found at."""
    ours = Path(sys.argv[0]).name in ("mae-bench", "mae_bench") or Path(sys.argv[0]).parts[-2:] == (
        "mae_bench",
        "__main__.py",
    )
    argv = ["mae-bench", *sys.argv[1:]] if ours else list(sys.orig_argv)
    return Command(argv=argv, folder=os.getcwd())


def usable_cpus() -> int:
    """How many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def host() -> Host:
    """This machine, as far as it decides how fast and how exactly the same program computes."""
    import torch

    chosen = {k: v for k, v in sorted(os.environ.items()) if any(fnmatch.fnmatchcase(k, name) for name in VARIABLES)}
    return Host(
        name=socket.gethostname(),
        system=platform.platform(),
        cpus=usable_cpus(),
        threads=torch.get_num_threads(),
        environment=chosen,
    )


def device(kind: torch.device, count: int) -> Device:
    """The hardware of `count` processes that compute on a device of this kind each."""
    if kind.type == "cuda":
        import torch

        name = torch.cuda.get_device_name(kind)
    else:
        name = _cpu_name()
    return Device(name=name, count=count, type=kind.type)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def peak_memory_bytes(kind: torch.device) -> int | None:
    """Most memory that this process has held so far: allocated by torch on CUDA, resident on the CPU."""
    if kind.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(kind)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
