"""How cells run: in this process, over local processes, or on a Ray cluster. An engine knows nothing about the data."""

import os

from sft_data.engine.local import Engine, LocalEngine
from sft_data.engine.ray import RayEngine

__all__ = ["Engine", "LocalEngine", "RayEngine", "cores", "open_engine"]


def cores() -> int:
    """Cores that this process may use: a container or a scheduler often gives fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_engine(name: str, workers: int, address: str | None = None) -> LocalEngine | RayEngine:
    """The engine that a command names: `local`, or `ray` (at `address`, or on a cluster started here)."""
    return RayEngine(workers, address) if name == "ray" else LocalEngine(workers)
