"""From a ViT checkpoint to the tables of the MAE paper: the runner. The same verbs as the command line, for notebooks.

import mae_bench
outcome = mae_bench.run("runs", checkpoint="mae_pretrain_vit_base.pth", tasks=["knn"], data={"imagenet": "/data/imagenet"})
print(mae_bench.table("knn", "runs"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbones.encoders.contract import Encoder
    from mae_bench.api import load_encoder, pretrain, run, table
    from mae_bench.checkpoint_tools.extract import extract
    from mae_bench.checkpoint_tools.reconstruct import reconstruct

    __version__: str

__all__ = ["Encoder", "extract", "load_encoder", "pretrain", "reconstruct", "run", "table"]
_HOME = {
    "Encoder": "backbones.encoders.contract",
    "extract": "mae_bench.checkpoint_tools.extract",
    "reconstruct": "mae_bench.checkpoint_tools.reconstruct",
    **dict.fromkeys(("load_encoder", "pretrain", "run", "table"), "mae_bench.api"),
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `mae-bench --help` should not wait for torch.
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    if name == "__version__":
        try:
            return version("mae-bench")
        except PackageNotFoundError:
            return "not installed"
    if name not in _HOME:
        raise AttributeError(f"module 'mae_bench' has no attribute {name!r}")
    from mae_bench.common.own_packages import check_own_packages

    check_own_packages()
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
