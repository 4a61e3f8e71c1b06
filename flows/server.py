"""The Prefect server that runs are told to: the one that PREFECT_API_URL names, else one started for this process."""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from sft_data.errors import ConfigError, EngineError

__all__ = ["reach_server"]


def reach_server() -> None:
    """Wait until the server answers.

    Raises ConfigError where the one that is named does not, and EngineError where none could be started.
    """
    settings = get_current_settings()
    url = settings.api.url
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
    except RuntimeError as error:
        if url:
            raise
        seconds = settings.server.ephemeral.startup_timeout_seconds
        said = str(error).partition("stdout:")[0].strip(". ")
        raise EngineError(
            f"no Prefect server could be started for this run in {seconds} s ({said}): give it more time by "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, or start one (prefect server start) and set "
            "PREFECT_API_URL; `sft-data build` builds the same version without Prefect"
        ) from None
    if problem is not None:
        raise ConfigError("PREFECT_API_URL", [f"the Prefect server at {url} does not answer: {problem}"])
