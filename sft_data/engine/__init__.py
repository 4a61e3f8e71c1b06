"""How cells run: in this process or over local processes. An engine knows nothing about the data."""

from sft_data.engine.local import Engine, LocalEngine

__all__ = ["Engine", "LocalEngine"]
