"""Who may ask the page's server, and for how much, before anything is parsed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

TOKEN = "x-brats-gan-token"
# Everything comes from this server, and nothing of it may be put into another page.
# NiiVue makes its worker from a blob and its font from data.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self' blob: data:",
        "worker-src 'self' blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class _TooLarge(Exception):
    pass


class Guard:
    """An ASGI application around another, which refuses what is not of the page.

    Args:
        app: that answers what is let through.
        hosts: values of Host that are this server's.
        token: that what begins with /api/ must bring along.
        limits: {path: bytes of a body}; other paths take none.
    """

    def __init__(
        self,
        app: Callable,
        hosts: set[str],
        token: str,
        limits: Mapping[str, int],
    ) -> None:
        self._app = app
        self._hosts = {host.encode() for host in hosts}
        self._origins = {b"http://" + host for host in self._hosts}
        self._token = token.encode()
        self._limits = limits

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answers one connection, see the specification of ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no others here
            await send({"type": "websocket.close", "code": 1008})
            return
        limit = self._limits.get(scope["path"], 0)
        body, begun = _Body(receive, limit), False

        async def answer(message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": _with_ours(message["headers"])}
            await send(message)

        async def unless_too_large(message):
            # What reads the body may take the error for one of its own.
            if not body.too_large:
                await answer(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _say(answer, *refusal)
            return
        try:
            await self._app(scope, body.take, unless_too_large)
        except _TooLarge:
            pass
        except asyncio.CancelledError:
            raise
        except Exception as error:  # of ours: named here, and to nobody else
            logging.error("%s %s: %r", scope["method"], scope["path"], error)
            if not begun:
                await _say(answer, 500, "Something went wrong here; the terminal says.")
        if body.too_large and not begun:
            await _say(answer, 413, _too_large(limit))

    def _refusal(self, scope):
        """(status, sentence) for what is not let through; None otherwise."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "This server answers to its own address only."
        origins = headers.get(b"origin", [])
        if any(origin.lower() not in self._origins for origin in origins):
            return 403, "Another page may not ask this server."
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "GET and POST are all that there is."
        if scope["path"].startswith("/api/"):
            given = headers.get(TOKEN.encode(), [])
            if len(given) != 1 or not secrets.compare_digest(given[0], self._token):
                return 401, "The token is missing or old: open the address printed."
        lengths = headers.get(b"content-length", [b"0"])
        limit = self._limits.get(scope["path"], 0)
        if len(lengths) != 1 or not lengths[0].isdigit():
            return 400, "Content-Length is not a number."
        if len(lengths[0]) > 15 or int(lengths[0]) > limit:
            return 413, _too_large(limit)
        return None


def _too_large(limit):
    return f"The request is too large: {limit} bytes are the most here."


class _Body:
    """A body that is read no further than its limit, whatever it says of its length."""

    def __init__(self, receive, limit):
        self._receive, self._limit, self._taken = receive, limit, 0

    @property
    def too_large(self):
        return self._taken > self._limit

    async def take(self):
        message = await self._receive()
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            if self.too_large:
                raise _TooLarge
        return message


def _with_ours(headers):
    kept = [pair for pair in headers if pair[0].decode().lower() not in _HEADERS]
    return kept + [(name.encode(), value.encode()) for name, value in _HEADERS.items()]


async def _say(send, status: int, sentence: str) -> Any:
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 413:  # what is left of the body is not read
        headers.append((b"connection", b"close"))
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
