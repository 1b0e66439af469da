"""Checkpoints by name: ``timm:NAME`` and ``hf:OWNER/NAME``, fetched by those libraries into their own caches."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import UserError

_PREFIXES = ("timm:", "hf:")
PLAIN = "plain:"
SCHEMES = (*_PREFIXES, "module:", PLAIN)  # with which a checkpoint begins that is no path
# What a folder of Hugging Face's is read from; nothing else is fetched, code least of all.
_HF_FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.bin", "*.index.json"]


def is_remote(source: str) -> bool:
    """Whether `source` is a name to fetch, not a path."""
    return source.startswith(_PREFIXES)


def resolve_remote(source: str) -> Path:
    """The local copy (file or folder) of ``timm:NAME`` or ``hf:OWNER/NAME``.

    Raises:
        UserError: no such model, or it cannot be fetched.
    """
    kind, _, name = source.partition(":")
    try:
        return _timm(name) if kind == "timm" else _hugging_face(name, _HF_FILES)
    except UserError:
        raise
    except Exception as e:  # these libraries pass on whatever their HTTP client raises
        reason = (str(e).strip().splitlines() or [""])[0][:160]
        raise UserError(
            f"{source}: cannot be fetched ({type(e).__name__}: {reason}): see to the name and the network, "
            "or fetch it elsewhere and give the file"
        ) from e


def _timm(name: str) -> Path:
    import timm

    # Whether timm has such a model is asked before, by `backbones.encoders.timm_models.registered`.
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is not None and config.hf_hub_id:
        file = config.hf_hub_filename or "model.safetensors"
        folder = _hugging_face(config.hf_hub_id, [file])
        return folder / file if config.hf_hub_filename else folder
    if config is not None and config.url:
        from timm.models import _hub

        return Path(_hub.download_cached_file(config.url, check_hash=True))
    raise UserError(f"timm:{name}: timm has no weights for this model: give one that has (timm.list_pretrained())")


def _hugging_face(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=patterns))
