"""Who may ask, how much and how often: API keys, body size and request rate.

Decided before anything of a body is decoded. Not for what a request may say (`requests`).
"""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hindcast.errors import HindcastError, MissingInputError
from serving.requests import RequestError

KEYS_VARIABLE = "HINDCAST_API_KEYS"
SHORTEST_KEY = 16
BODY_WITHIN = 10.0  # seconds in which all of a body must come
THROWN_AWAY = 16_777_216  # bytes of a body over the limit
MOST_CALLERS = 10_000  # whose rates are remembered


def api_keys(file: Path | None) -> tuple[bytes, ...]:
    """The keys of a file, one a line, and those of the environment, separated by commas.

    Raises:
        MissingInputError: the file is not there.
        HindcastError: a key is too short to be secret, or the file has none.
    """
    keys = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",")]
    if file is not None:
        if not file.is_file():
            raise MissingInputError(f"no file of API keys at {file}; write one key a line")
        lines = [line.strip() for line in file.read_text().splitlines()]
        of_file = [line for line in lines if line and not line.startswith("#")]
        if not of_file:
            raise HindcastError(f"{file} has no API key; write one a line, or leave the file out")
        keys += of_file
    keys = [key for key in keys if key]
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise HindcastError(
            f"an API key is shorter than {SHORTEST_KEY} characters; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`"
        )
    return tuple(key.encode() for key in keys)


@dataclass(frozen=True)
class Limits:
    """What one caller may ask for."""

    body_bytes: int = 1_048_576
    rows: int = 1_000
    per_second: float = 0.0
    """Requests a second of one caller, with bursts of as many; 0: no limit."""


@dataclass
class Guard:
    """Lets a request pass, or raises what to answer instead."""

    limits: Limits = field(default_factory=Limits)
    keys: tuple[bytes, ...] = ()
    _spent: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def check(self, scope: Any) -> None:
        """Let a request pass by its headers.

        An address that sent too many wrong keys waits, and none of its keys is looked at.

        Raises:
            RequestError: it has no valid key, or the caller asks too often.
        """
        headers = dict(scope["headers"])
        client = scope.get("client")
        caller = f"address {client[0] if client else ''}"
        if self.keys:
            if self.limits.per_second and self._tokens(f"wrong {caller}") < 1:
                raise self._too_often()
            given = headers.get(b"x-api-key", b"")
            # all keys are compared, so that the time taken does not tell which one was near
            if sum(hmac.compare_digest(given, key) for key in self.keys) == 0:
                if self.limits.per_second:
                    self._spend(f"wrong {caller}")
                raise RequestError(
                    401, "unauthorized", "send a valid API key in the header X-API-Key"
                )
            caller = f"key {given.decode('latin-1')}"
        if self.limits.per_second:
            if self._tokens(caller) < 1:
                raise self._too_often()
            self._spend(caller)

    async def body(self, receive: Any) -> bytes:
        """The body of a request.

        What is over the limit is read on for a while and thrown away, since most clients hear no
        answer before they have sent all.

        Raises:
            RequestError: it is too large, does not come in time, or the connection ended before
                it did.
        """
        try:
            async with asyncio.timeout(BODY_WITHIN):
                return await self._body(receive)
        except TimeoutError:
            raise RequestError(
                408,
                "body_too_slow",
                f"the body did not come within {BODY_WITHIN:g} seconds; send it at once",
            ) from None

    async def _body(self, receive: Any) -> bytes:
        most, parts, size = self.limits.body_bytes, [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(400, "incomplete", "the connection ended before the body did")
            part = message.get("body", b"")
            size += len(part)
            if size <= most:
                parts.append(part)
            if not message.get("more_body") or size > most + THROWN_AWAY:
                break
        if size > most:
            raise RequestError(
                413,
                "body_too_large",
                f"the body is over {most} bytes; send fewer flights at a time",
            )
        return b"".join(parts)

    def _tokens(self, bucket: str) -> float:
        """What is in a bucket, which fills with time."""
        rate, now = self.limits.per_second, time.monotonic()
        burst = max(rate, 1.0)
        tokens, since = self._spent.get(bucket, (burst, now))
        return min(burst, tokens + (now - since) * rate)

    def _spend(self, bucket: str) -> None:
        """Take a token of a bucket."""
        self._spent[bucket] = (self._tokens(bucket) - 1, time.monotonic())
        self._spent.move_to_end(bucket)
        if len(self._spent) > MOST_CALLERS:
            self._spent.popitem(last=False)

    def _too_often(self) -> RequestError:
        rate = self.limits.per_second
        return RequestError(
            429, "too_many_requests", f"more than {rate:g} requests a second; send them slower"
        )
