"""The online stores' tables on a Redis server: one hash a table, one field an entity.

For when several machines serve, or the embedded store is outgrown. A row is replaced as a whole,
so that a killed run leaves each entity old or new; a table's description changes when its run has
ended. Needs the extra `redis`. Not for Redis clusters' multi-key reads: all tables of one read
must be on one server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hindcast.errors import HindcastError, OnlineStoreUnavailableError
from hindcast.kv import Engine, Rows, Writer

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry
except ImportError as error:
    raise HindcastError(
        "the Redis online store needs the package redis: pip install 'hindcast[redis]'."
    ) from error

CHUNK = 5_000
LOCK_SECONDS = 60.0
DESCRIPTION = b"\0"
"""The field of a table's description among its rows: no entity's key begins so."""


class RedisEngine(Engine):
    """Tables under `prefix` on the server at `url`; a call fails after `timeout` seconds."""

    takes_back = False

    def __init__(self, url: str, prefix: str, timeout: float) -> None:
        """Nothing is asked of the server yet."""
        self._prefix = prefix
        self._timeout = timeout
        try:
            self._pool = redis.ConnectionPool.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                # once, for a connection that the server had closed; not for one that hangs
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except ValueError:  # its text may hold the password
            raise HindcastError(
                "the `url` of the online store is no Redis URL. Expected redis://host:port/0; in a "
                "password, characters such as / # ? @ must be percent-encoded."
            ) from None
        known = self._pool.connection_kwargs
        server = known.get("path") or f"{known.get('host')}:{known.get('port')}"
        self._shown = f"{server}/{known.get('db', 0)}"  # and never a password
        self._client = redis.Redis(connection_pool=self._pool)
        self._local = threading.local()

    def _rows_of(self, table: str) -> str:
        return f"{self._prefix}:{table}:rows"

    @contextmanager
    def _speaking(self, what: str) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise OnlineStoreUnavailableError(
                f"the online store at {self._shown} cannot be {what}: {error}"
            ) from error

    def read(
        self, wanted: Sequence[tuple[str, Sequence[bytes]]]
    ) -> list[tuple[bytes | None, Rows]]:
        """As `Engine.read`, in one transaction and one round trip."""
        asked = [(self._rows_of(table), [DESCRIPTION, *keys]) for table, keys in wanted]
        with self._speaking("read"):
            answers: list[Any]
            if len(asked) == 1:  # one command is one instant
                answers = [self._hmget(*asked[0])]
            else:
                with self._client.pipeline(transaction=True) as pipeline:
                    pipeline.ping()
                    for one in asked:
                        pipeline.hmget(*one)
                    answers = pipeline.execute()[1:]
        return [(answer[0], answer[1:]) for answer in answers]

    def _hmget(self, name: str, fields: list[bytes]) -> Any:
        """HMGET on this thread's own connection: half of what a call costs is finding one."""
        connection = getattr(self._local, "connection", None)
        for is_last in (connection is None, True):
            if connection is None:
                connection = self._local.connection = self._pool.make_connection()
            try:
                connection.send_command("HMGET", name, *fields)
                return connection.read_response()
            except RedisError as error:
                connection.disconnect()
                # a connection that the server had closed is opened anew, once
                if is_last or isinstance(error, redis.TimeoutError):
                    raise

    @contextmanager
    def writing(self, table: str) -> Iterator[Writer]:
        """As `Engine.writing`. What was put before an error stays: each row is whole."""
        lock = self._client.lock(
            f"{self._prefix}:{table}:lock", timeout=LOCK_SECONDS, blocking_timeout=LOCK_SECONDS
        )
        with self._speaking("written"):
            try:
                if not lock.acquire():
                    raise OnlineStoreUnavailableError(
                        f"{table} is being written by another process since {LOCK_SECONDS:.0f} s. "
                        "Try again when it has ended."
                    )
                yield _RedisWriter(self._client, self._rows_of(table), lock.reacquire)
            finally:
                if lock.owned():
                    lock.release()

    def drop(self, tables: Iterable[str]) -> None:
        """As `Engine.drop`."""
        with self._speaking("written"):
            for table in tables:
                self._client.unlink(self._rows_of(table))

    def close(self) -> None:
        """As `Engine.close`."""
        self._local = threading.local()
        self._pool.disconnect()


class _RedisWriter(Writer):
    def __init__(self, client: Any, rows: str, still_mine: Callable[[], Any]) -> None:
        self._client, self._name = client, rows
        self._still_mine = still_mine

    def get(self, keys: Sequence[bytes]) -> Rows:
        answer: Rows = []
        for start in range(0, len(keys), CHUNK):
            answer += self._client.hmget(self._name, list(keys[start : start + CHUNK]))
        return answer

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        self._still_mine()
        items = list(rows.items())
        with self._client.pipeline(transaction=False) as pipeline:
            for start in range(0, len(items), CHUNK):
                pipeline.hset(self._name, mapping=dict(items[start : start + CHUNK]))
            pipeline.execute()

    def delete(self, keys: Iterable[bytes]) -> None:
        self._still_mine()
        gone = list(keys)
        for start in range(0, len(gone), CHUNK):
            self._client.hdel(self._name, *gone[start : start + CHUNK])

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        for number, item in enumerate(self._client.hscan_iter(self._name, count=CHUNK)):
            if number % CHUNK == 0:
                self._still_mine()
            if item[0] != DESCRIPTION:
                yield item

    def count(self) -> int:
        rows: int = self._client.hlen(self._name)
        return rows - bool(self._client.hexists(self._name, DESCRIPTION))

    def description(self) -> bytes | None:
        found: bytes | None = self._client.hget(self._name, DESCRIPTION)
        return found

    def describe(self, description: bytes) -> None:
        self._still_mine()
        self._client.hset(self._name, DESCRIPTION, description)
