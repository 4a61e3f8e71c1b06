"""How cells run: in this process, over local processes, or on a Ray cluster. An engine knows nothing about the data."""

from sft_data.engine.local import Engine, LocalEngine
from sft_data.engine.ray import RayEngine

__all__ = ["Engine", "LocalEngine", "RayEngine", "open_engine"]


def open_engine(name: str, workers: int, address: str | None = None) -> LocalEngine | RayEngine:
    """The engine that a command names: `local`, or `ray` (at `address`, or on a cluster started here)."""
    return RayEngine(workers, address) if name == "ray" else LocalEngine(workers)
