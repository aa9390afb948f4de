"""The online stores' tables on a Redis server: one hash a table, one field an entity.

For when several machines serve, or the embedded store is outgrown. A row is replaced as a whole,
so that a killed run leaves each entity old or new; a table's description changes when its run has
ended. Needs the extra `redis`. Not for Redis clusters' multi-key reads: all tables of one read
must be on one server.
"""

from __future__ import annotations

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

    def _rows_of(self, table: str) -> str:
        return f"{self._prefix}:{table}:rows"

    def _description_of(self, table: str) -> str:
        return f"{self._prefix}:{table}:description"

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
        with self._speaking("read"), self._client.pipeline(transaction=True) as pipeline:
            if not wanted:
                pipeline.ping()
            for table, keys in wanted:
                pipeline.get(self._description_of(table))
                if keys:
                    pipeline.hmget(self._rows_of(table), list(keys))
            answers = iter(pipeline.execute())
            return [(next(answers), next(answers) if keys else []) for _, keys in wanted]

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
                yield _RedisWriter(
                    self._client, self._rows_of(table), self._description_of(table), lock.reacquire
                )
            finally:
                if lock.owned():
                    lock.release()

    def drop(self, tables: Iterable[str]) -> None:
        """As `Engine.drop`."""
        with self._speaking("written"):
            for table in tables:
                self._client.unlink(self._rows_of(table), self._description_of(table))

    def close(self) -> None:
        """As `Engine.close`."""
        self._pool.disconnect()


class _RedisWriter(Writer):
    def __init__(
        self, client: Any, rows: str, description: str, still_mine: Callable[[], Any]
    ) -> None:
        self._client, self._name, self._description = client, rows, description
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
            yield item

    def count(self) -> int:
        return int(self._client.hlen(self._name))

    def description(self) -> bytes | None:
        found: bytes | None = self._client.get(self._description)
        return found

    def describe(self, description: bytes) -> None:
        self._still_mine()
        self._client.set(self._description, description)
