"""The service as processes: one for each core, all on one port."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import uvicorn

from travelcard.config import Config
from travelcard.service.app import application
from travelcard.service.context import Context

__all__ = ["factory", "serve"]

CONFIG = "TRAVELCARD_SERVICE_CONFIG"


def factory() -> Any:
    """The application of the configuration that `serve` was given: every process makes its own."""
    made = application(Context.of(Config.read(Path(os.environ[CONFIG]))))
    gc.enable()  # a command that ends soon goes without
    gc.freeze()  # what is loaded stays: walking it again and again took a tenth of the time
    return made


def serve(config: Path, *, host: str, port: int, processes: int, certificate: Path | None, key: Path | None) -> None:
    """Serve until told to stop; what has begun is answered first."""
    Context.of(Config.read(config)).close()  # refused here, in one line, rather than by every process
    os.environ[CONFIG] = str(config.resolve())
    uvicorn.run(
        "travelcard.service.serve:factory", factory=True, host=host, port=port, workers=processes, log_config=LOGGING,
        access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=10, backlog=4096,
        ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "uvicorn.error": {"level": "WARNING"},
        "travelcard.service": {"level": "INFO"},
    },
    "root": {"level": "WARNING", "handlers": ["stderr"]},
}
