"""The ASGI application: the API and the pages, behind what every answer needs (headers, size, load)."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from travelcard import __version__
from travelcard.errors import TravelcardError, hidden, mask
from travelcard.service import access, api, lookups, pages
from travelcard.service.context import Context
from travelcard.service.refusals import Refused

__all__ = ["application"]

log = logging.getLogger("travelcard.service")
BODY = 1 << 20  # bytes
CARD = "/api/v1/card"
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Before anything else: no more requests at a time than can be answered soon, no large body; on every answer the
    headers. What there is no room for is told so at once, and when to come again.
    """

    def __init__(self, app: FastAPI, most: int, secure: bool) -> None:
        self._app, self._most, self._now = app, most, 0
        told = HEADERS | ({"strict-transport-security": "max-age=31536000"} if secure else {})
        self._headers = [(name.encode(), value.encode()) for name, value in told.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in self._headers if one[0] not in there)]
            await send(message)

        if self._now >= self._most:
            await _refusal(scope, Refused("busy", wait=1))(scope, receive, answer)
            return
        self._now += 1
        try:
            if scope["path"] == CARD and scope["method"] == "GET":
                # What is asked most often goes past routing and middleware: they take a fifth of its time.
                await (await self._card(scope))(scope, receive, answer)
                return
            body = await _body(scope, receive)
            if body is None:
                await _refusal(scope, Refused("too_large"))(scope, receive, answer)
            else:
                await self._app(scope, body, answer)
        finally:
            self._now -= 1

    async def _card(self, scope: Scope) -> Response:
        scope["app"] = self._app
        try:
            return await api.card(Request(scope))
        except Exception as error:  # noqa: BLE001  as everywhere here: told to who asks as what it is to them
            return _answer_to(scope, error)


async def _body(scope: Scope, receive: Receive) -> Receive | None:
    """The whole body, read here as far as is allowed; None where it is too large."""
    if scope["method"] in ("GET", "HEAD"):
        return receive
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return receive
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > BODY:
            return None
    told = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": b"".join(parts), "more_body": False}

    return again


def _refusal(scope: Scope, refused: Refused) -> Response:
    """A refusal as who asks can read it: JSON, or a page."""
    if scope["path"].startswith("/api/"):
        headers = {} if refused.wait is None else {"retry-after": str(refused.wait)}
        if refused.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(api.problem(refused), refused.status, headers=headers)
    return pages.refusal(Request(scope), refused)


def _answer_to(scope: Scope, error: Exception) -> Response:
    """What somebody is told instead of an answer. Of what is wrong inside: nothing but when to come again."""
    if isinstance(error, Refused):
        return _refusal(scope, error)
    what = hidden(str(error)) if isinstance(error, TravelcardError) else type(error).__name__
    log.error("%s: %s", scope["path"].split("/")[1], what)
    return _refusal(scope, Refused("busy", wait=30))


def application(context: Context) -> Any:
    """The service over a context, to be run by any ASGI server."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        """While it runs: messages are sent, decisions are carried out, what has expired is removed."""
        over = threading.Event()
        worker = threading.Thread(target=_chores, args=(context, over), name="chores", daemon=True)
        worker.start()
        yield
        over.set()
        worker.join()
        context.close()

    app = FastAPI(
        title="travelcard", version=__version__, lifespan=life, docs_url=None, redoc_url=None,
        openapi_url="/api/v1/openapi.json", description="A person's travel card and health code, by phone number.",
    )  # fmt: skip
    app.state.context = context
    app.include_router(api.router)
    app.include_router(pages.router)

    @app.exception_handler(TravelcardError)
    @app.exception_handler(Exception)
    async def refused(request: Request, error: Exception) -> Response:
        return _answer_to(request.scope, error)

    @app.exception_handler(RequestValidationError)
    async def misfit(request: Request, error: RequestValidationError) -> Response:
        where = {".".join(str(part) for part in one["loc"][1:]) or "body" for one in error.errors()}
        return _refusal(request.scope, Refused("bad_input", about=hidden(", ".join(sorted(where)))))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        reason = {404: "no_page", 405: "method"}.get(error.status_code, "bad_input")
        answer = _refusal(request.scope, Refused(reason))
        if error.headers:
            answer.headers.update(error.headers)
        return answer

    return Guard(app, context.settings.in_flight, context.settings.secure)


def _chores(context: Context, over: threading.Event) -> None:
    sender = sender_of(context)
    last = 0.0
    while not over.wait(0.2):
        try:
            if sender is not None:
                access.messages(context, sender)
            if (last := last + 0.2) >= 60:
                last = 0.0
                access.tidy(context)
                lookups.settle(context)
        except Exception as error:  # noqa: BLE001  the next time; a request that needs the same says so to who asks
            log.error("a chore failed: %s", type(error).__name__)
            over.wait(5)


def sender_of(context: Context) -> Callable[[str, str], Any] | None:
    """What sends SMS: the carrier's own, the terminal (for a demo); None where `travelcard outbox` hands them over."""
    named = context.settings.sms
    if named == "outbox":
        return None
    return _printed if named == "terminal" else context.plugged(named)


def _printed(number: str, text: str) -> None:
    print(f"SMS to {mask(number.removeprefix('+'))}: {text}", flush=True)  # noqa: T201  it is asked for
