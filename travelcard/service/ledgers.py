"""The audit record: who looked at whose data, when; written before the answer is given."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, desc, insert, select

from travelcard.errors import InputError
from travelcard.service.database import audit

__all__ = ["Audit", "looks_at"]

_MOST = 500  # rows of one transaction
_LINGER = 0.01  # seconds for which others are waited for: a transaction costs as much as ten rows


class Audit:
    """Look-ups on their way into the database: those that come at the same time are one transaction.

    A look-up each in a transaction of its own would wait for the disk each time, and for other processes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[tuple[dict[str, Any], Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
        self._thread.start()

    def put(self, key: str, who: str, what: str, at: datetime) -> Future[None]:
        """Put on record that somebody looked; done when the future is."""
        done: Future[None] = Future()
        self._waiting.put(({"number_key": key, "at": at, "who": who, "what": what}, done))
        return done

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (first := self._waiting.get()) is not None:
            time.sleep(_LINGER)
            batch = [first]
            while len(batch) < _MOST:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._waiting.put(None)
                    break
                batch.append(more)
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(audit), [row for row, _ in batch])
            except Exception as error:  # noqa: BLE001  whatever it is, it is for those who wait to say
                failed = InputError(f"the audit record cannot be written: {type(error).__name__}")
                for _, done in batch:
                    done.set_exception(failed)
            else:
                for _, done in batch:
                    done.set_result(None)


def looks_at(connection: Connection, keys: list[str], most: int = 100) -> list[dict[str, Any]]:
    """The newest look-ups of somebody's numbers (or of a person's code)."""
    rows = connection.execute(
        select(audit.c.at, audit.c.who, audit.c.what)
        .where(audit.c.number_key.in_(keys))
        .order_by(desc(audit.c.at), desc(audit.c.id))
        .limit(most)
    )
    return [dict(row) for row in rows.mappings()]
