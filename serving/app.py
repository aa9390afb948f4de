"""The HTTP side of the service: routes, what they answer, and how errors are told.

`/v1/score` is a bare ASGI endpoint, since it is what speed matters for. Not for scoring itself
(`scorer`), and not for limits and keys (`guard`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Route

from hindcast.errors import HindcastError
from serving import board, openapi, page
from serving.answers import LogFullError
from serving.requests import RequestError, decode
from serving.scorer import StoreAwayError
from serving.service import MisfittedError, Service

JSON = b"application/json"
NOT_NOW = {
    StoreAwayError: "store_unavailable",
    LogFullError: "log_full",
    MisfittedError: "model_does_not_fit",
}
INTERNAL = "the service failed on this request; its own log has the details under the request_id"


def told(code: str, message: str, request_id: str) -> bytes:
    """The body of every answer that is an error."""
    return orjson.dumps({"request_id": request_id, "error": {"code": code, "message": message}})


class ScoreEndpoint:
    """`POST /v1/score` as a bare ASGI application."""

    def __init__(self, service: Service) -> None:
        """Answer with this service."""
        self._service = service
        # One request is scored for each look at the network. Otherwise all that have come are
        # scored before the next connection is accepted, and new callers wait for seconds.
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body, score, answer. Nothing gets out but the answer or an error of ours."""
        service, request_id, more = self._service, uuid4().hex, []
        try:
            service.guard.check(scope)
            body = await service.guard.body(receive)
            started = time.perf_counter()
            async with self._turn:
                await asyncio.sleep(0)
                content = self._score(body, request_id)
            service.metrics.latency.observe(time.perf_counter() - started)
            status = 200
        except RequestError as fault:
            status, content = fault.status, told(fault.code, str(fault), request_id)
            if status in (408, 413):  # there may be more of the body than was read
                more.append((b"connection", b"close"))
        except (StoreAwayError, LogFullError, MisfittedError) as fault:
            status, content = 503, told(NOT_NOW[type(fault)], str(fault), request_id)
        except Exception as fault:
            service.tell(f"request {request_id} failed: {fault!r}")
            status, content = 500, told("internal", INTERNAL, request_id)
        service.metrics.count(status)
        if status in (429, 503):
            more.append((b"retry-after", b"1"))
        length = str(len(content)).encode()
        headers = [(b"content-type", JSON), (b"content-length", length), *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _score(self, body: bytes, request_id: str) -> bytes:
        service = self._service
        asked = decode(body, service.guard.limits.rows)
        service.metrics.batch.observe(len(asked.flights))
        answer = service.answer(asked, request_id)
        if asked.single:
            error = answer["results"][0].get("error")
            if error is not None:
                raise RequestError(422, error["code"], error["message"])
        return orjson.dumps(answer)


class Front:
    """Takes `POST /v1/score` past FastAPI's layers, which cost as much time as the score."""

    def __init__(self, app: FastAPI) -> None:
        """Everything else is the application's."""
        self._app, self._score = app, ScoreEndpoint(app.state.service)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        is_score = scope["type"] == "http" and scope["path"] == "/v1/score"
        if is_score and scope["method"] == "POST":
            await self._score(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def build(service: Service) -> FastAPI:
    """The application of a service. Its shutdown closes the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPIOffline(
        title="Hindcast: late arrivals",
        version=service.bundle.id,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    score = ScoreEndpoint(service)
    app.router.routes.append(Route("/v1/score", score, methods=["POST"]))

    async def allowed(request: Request) -> None:
        service.guard.check(request.scope)

    @app.get("/v1/model", tags=["model"], dependencies=[Depends(allowed)])
    async def model() -> Response:
        """The model: its card and figures, its features, and the instants they stand at."""
        return Response(orjson.dumps(service.card()), media_type="application/json")

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """The process lives. It may still not be ready."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operation"], responses={503: {"description": "Not ready, and why."}})
    async def readyz() -> Response:
        """Whether it should be asked: store there, features fresh, model fitting."""
        reasons = service.not_ready()
        body = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        return Response(orjson.dumps(body), 503 if reasons else 200, media_type="application/json")

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        log = service.log
        text = service.metrics.text(log.waiting if log else 0, log.written if log else 0)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    app.include_router(board.router(service), dependencies=[Depends(allowed)])
    app.include_router(page.router(service))

    @app.exception_handler(RequestError)
    async def refused(request: Request, fault: RequestError) -> Response:
        return _error(fault.status, fault.code, str(fault))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, fault: RequestValidationError) -> Response:
        faults = [f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in fault.errors()]
        return _error(422, "invalid_request", f"{'; '.join(faults)}; see /docs")

    @app.exception_handler(StoreAwayError)
    @app.exception_handler(LogFullError)
    @app.exception_handler(MisfittedError)
    async def not_now(request: Request, fault: HindcastError) -> Response:
        answer = _error(503, NOT_NOW[type(fault)], str(fault))
        answer.headers["retry-after"] = "1"
        return answer

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, fault: HTTPException) -> Response:
        hints = {404: "there is no such address; see /docs", 405: "another method; see /docs"}
        message = hints.get(fault.status_code, str(fault.detail))
        return _error(fault.status_code, "http", message)

    @app.exception_handler(Exception)
    async def failed(request: Request, fault: Exception) -> Response:
        request_id = uuid4().hex
        service.tell(f"request {request_id} of {request.url.path} failed: {fault!r}")
        return _error(500, "internal", INTERNAL, request_id)

    openapi.extend(app, service)
    return app


def _error(status: int, code: str, message: str, request_id: str | None = None) -> Response:
    body = told(code, message, request_id or uuid4().hex)
    return Response(body, status, media_type="application/json")
