"""From a ViT checkpoint to the tables of the MAE paper: the runner. The same verbs as the command line, for notebooks."""

from __future__ import annotations

from typing import Any

__all__ = ["Encoder", "extract", "load_encoder", "pretrain", "reconstruct", "run", "table"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `mae-bench --help` should not wait for torch.
    if name in ("load_encoder", "pretrain", "run"):
        from mae_bench import api

        return getattr(api, name)
    if name == "Encoder":
        from backbones.encoders.contract import Encoder

        return Encoder
    if name == "extract":
        from mae_bench.checkpoint_tools.extract import extract

        return extract
    if name == "reconstruct":
        from mae_bench.checkpoint_tools.reconstruct import reconstruct

        return reconstruct
    raise AttributeError(f"module 'mae_bench' has no attribute {name!r}")


def table(name: str, runs: str, format: str = "md") -> str:
    """A table of the paper from the records under `runs`, as ``md``, ``csv`` or ``json`` text (pictures: `mae-bench table`)."""
    from mae_bench.records.record import find
    from mae_bench.tables import build, render

    return render(build(name, find(runs), runs_dir=runs), format)
