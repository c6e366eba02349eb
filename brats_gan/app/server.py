"""The server of explore.py: routes of the page, one worker behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import fastapi
import uvicorn
from fastapi import exceptions, responses, staticfiles
from pydantic import BaseModel, ConfigDict, Field
from starlette import exceptions as http_exceptions

from brats_gan import painting
from brats_gan.app import opened
from brats_gan.app.answers import Answers, Asked
from brats_gan.app.guard import Guard
from brats_gan.app.worker import Busy, Worker
from brats_gan.recipes import MOST_SEED

STATIC = Path(__file__).with_name("static")
HOST = "127.0.0.1"
CONNECTIONS = 200  # at once; one more is told that the server is busy
_JSON_BESIDE = 4096  # bytes of a request beside its label
_SAID = {404: "There is no such page.", 405: "This page is not asked that way."}
_BYTES = "application/octet-stream"

_Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
_Far = Annotated[float, Field(ge=-painting.FARTHEST, le=painting.FARTHEST)]


class Choices(BaseModel):
    """The body of most requests, see answers.Asked."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    seed: _Seed
    height: Annotated[int, Field(ge=0, le=100_000)] | None = None
    directions: Annotated[list[_Far | None], Field(max_length=painting.DIRECTIONS)] = []
    style: _Seed | None = None
    label: str

    def asked(self) -> Asked:
        """The same as plain values."""
        directions = tuple(self.directions)
        return Asked(self.seed, self.height, directions, self.style, self.label)


class Placing(Choices):
    """The same, and where a real label is to go."""

    place: _Seed


def build(answers: Answers, token: str, port: int, worker: Worker) -> Guard:
    """The application.

    Args:
        answers: Answers.
        token: that requests must bring along.
        port: at which it will be reached.
        worker: Worker that computes; the caller closes it.
    """
    # No pages of documentation: these load scripts from elsewhere.
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def computed(job: Callable) -> responses.Response:
        """What a job returns, once the worker has done it."""
        try:
            future = worker.submit(job)
        except Busy:
            said = "Busy: others are being drawn. Ask again in a moment."
            return _error(503, said, {"retry-after": "1"})
        try:
            content = await asyncio.wrap_future(future)
        except LookupError as error:
            return _error(404, str(error.args[0]))
        except ValueError as error:
            return _error(422, str(error))
        return responses.Response(content, media_type=_BYTES)

    @app.get("/api/state")
    async def state():
        return answers.state()

    @app.post("/api/draw")
    async def draw(choices: Choices):
        return await computed(lambda: answers.draw(choices.asked()))

    @app.post("/api/judge")
    async def judge(choices: Choices):
        return await computed(lambda: answers.judge(choices.asked()))

    @app.post("/api/place")
    async def place(choices: Placing):
        return await computed(lambda: answers.place(choices.asked(), choices.place))

    @app.post("/api/open")
    async def open_label(request: fastapi.Request):
        content = await request.body()
        return await computed(lambda: answers.open(content))

    @app.post("/api/recipe")
    async def recipe(choices: Choices):
        return await computed(lambda: answers.recipe(choices.asked()).as_json())

    @app.post("/api/set")
    async def whole_set(choices: Choices):
        return await computed(lambda: answers.archive(choices.asked()))

    @app.post("/api/sheet")
    async def sheet(choices: Choices):
        return await computed(lambda: answers.sheet(choices.asked()))

    @app.post("/api/volume")
    async def volume(choices: Choices):
        return await computed(lambda: answers.volume(choices.asked()))

    @app.get("/api/subjects/{number}/{channel}")
    async def subject(number: int, channel: int):
        return await computed(lambda: answers.subject(number, channel))

    @app.exception_handler(exceptions.RequestValidationError)
    async def unfit(request, error):
        del request
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _error(422, f"{where[:80]}: {first['msg']}."[:300].lstrip(": "))

    # Starlette's, of which FastAPI's is one.
    @app.exception_handler(http_exceptions.HTTPException)
    async def odd(request, error):
        del request
        said = _SAID.get(error.status_code, "The request cannot be read.")
        return _error(error.status_code, said)

    app.mount("/", staticfiles.StaticFiles(directory=STATIC, html=True))
    choices = _JSON_BESIDE + 2 * answers.size**2
    limits = {
        f"/api/{name}": choices
        for name in ("draw", "judge", "place", "recipe", "set", "sheet", "volume")
    }
    limits["/api/open"] = opened.MOST_BYTES
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
    return Guard(app, hosts, token, limits)


def run(answers: Answers, token: str, listener: socket.socket) -> None:
    """Serves until a signal ends the process.

    Args:
        answers: Answers.
        token: that requests must bring along.
        listener: a socket that listens at HOST.
    """
    worker = Worker()
    app = build(answers, token, listener.getsockname()[1], worker)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=30,
        ws="none",
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        worker.close()


def _error(status, sentence, headers=None):
    return responses.JSONResponse({"error": sentence}, status, headers)
