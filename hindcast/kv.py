"""What the online stores need of a key-value engine: tables of bytes, each with one description.

`LmdbEngine` keeps them in an embedded file, `kv_redis.RedisEngine` on a Redis server. Readers see
a table and its description as they were at one instant; they are never blocked. Not for what the
bytes mean: that is `packed`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import lmdb

from hindcast.errors import OnlineStoreUnavailableError

Rows = list[bytes | None]
WAIT = 5.0
"""Seconds that a reader waits for others to leave a store that was replaced."""


class Writer(ABC):
    """One table, open for writing; nobody else writes to it meanwhile."""

    @abstractmethod
    def get(self, keys: Sequence[bytes]) -> Rows:
        """The rows of these keys, None where there is none."""

    @abstractmethod
    def put(self, rows: Mapping[bytes, bytes]) -> None:
        """Set rows."""

    @abstractmethod
    def delete(self, keys: Iterable[bytes]) -> None:
        """Remove rows."""

    @abstractmethod
    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and row. The table must not be changed before it has ended."""

    @abstractmethod
    def count(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def description(self) -> bytes | None:
        """What `describe` said last."""

    @abstractmethod
    def describe(self, description: bytes) -> None:
        """Keep one value beside the rows."""


class Engine(ABC):
    """A set of tables by name. `takes_back`: an error in `writing` leaves all as it was."""

    takes_back = True

    @abstractmethod
    def read(
        self, wanted: Sequence[tuple[str, Sequence[bytes]]]
    ) -> list[tuple[bytes | None, Rows]]:
        """The description of each table and its rows of the keys, all as of one instant.

        A table that is not there has neither. Raises OnlineStoreUnavailableError.
        """

    @abstractmethod
    def writing(self, table: str) -> AbstractContextManager[Writer]:
        """The table, made if it is not there. Waits for whoever writes now."""

    @abstractmethod
    def drop(self, tables: Iterable[str]) -> None:
        """Remove tables, if they are there."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; the engine may be used again."""


class LmdbEngine(Engine):
    """Tables in one LMDB directory, shared by all threads and processes of a machine.

    A write is one transaction: readers see the table before it or after it, also when the writer
    is killed half-way. `size_limit` bytes is the most the file may grow to.
    """

    _engines: ClassVar[dict[str, LmdbEngine]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def at(cls, path: Path, size_limit: int) -> LmdbEngine:
        """The engine of a directory: one in each process, as LMDB demands."""
        with cls._lock:
            return cls._engines.setdefault(os.path.realpath(path), cls(path, size_limit))

    def __init__(self, path: Path, size_limit: int) -> None:
        """Nothing is opened or made yet."""
        self.path, self.size_limit = path, size_limit
        self._data = str(path / "data.mdb")
        self._opened: _Opened | None = None
        self._changed = threading.Condition()

    @contextmanager
    def _using(self, create: bool) -> Iterator[lmdb.Environment]:
        """The environment, opened anew when its file was replaced or the process forked."""
        with self._changed:
            opened = self._current(create)
            opened.users += 1
        try:
            yield opened.environment
        finally:
            with self._changed:
                opened.users -= 1
                if opened.users == 0 and (opened.is_ending or opened is not self._opened):
                    self._end(opened)
                self._changed.notify_all()

    def _current(self, create: bool) -> _Opened:
        stamp = self._stamp()
        opened = self._opened
        if opened is not None and opened.file == stamp and opened.process == os.getpid():
            return opened
        if opened is not None and opened.process == os.getpid():
            # of a directory, LMDB takes one environment at a time
            if not self._changed.wait_for(lambda: opened.users == 0, WAIT):
                raise OnlineStoreUnavailableError(
                    f"the online store {self.path.name} was replaced while it is being written."
                )
            if self._opened is not opened:
                return self._current(create)
        if opened is not None:
            self._end(opened)  # in a fork: this process's copy, the parent goes on with its own
        if stamp is None and not create:
            raise OnlineStoreUnavailableError(
                f"the online store {self.path.name} is not there. `feast materialize` fills it."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(str(self.path), map_size=self.size_limit, max_readers=1024)
        except (lmdb.Error, OSError) as error:
            raise OnlineStoreUnavailableError(
                f"the online store {self.path.name} cannot be opened: {error}"
            ) from error
        environment.reader_check()  # forgets readers that were killed
        self._opened = _Opened(environment, self._stamp(), os.getpid())
        return self._opened

    def _end(self, opened: _Opened) -> None:
        """Close what nobody uses."""
        opened.environment.close()
        if self._opened is opened:
            self._opened = None

    def _stamp(self) -> tuple[int, int] | None:
        """Which file the directory holds now, None if there is none."""
        try:
            found = os.stat(self._data)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def read(
        self, wanted: Sequence[tuple[str, Sequence[bytes]]]
    ) -> list[tuple[bytes | None, Rows]]:
        """As `Engine.read`, in one read transaction."""
        try:
            return self._read(wanted)
        except lmdb.MapResizedError:  # by a process with a greater `size_limit`
            self.close()
            return self._read(wanted)

    def _read(
        self, wanted: Sequence[tuple[str, Sequence[bytes]]]
    ) -> list[tuple[bytes | None, Rows]]:
        try:
            with self._using(create=False) as environment, environment.begin() as transaction:
                return [
                    (
                        _bytes(transaction.get(_prefix(name) + DESCRIPTION)),
                        _rows(transaction, _prefix(name) + ROW, keys),
                    )
                    for name, keys in wanted
                ]
        except lmdb.MapResizedError:
            raise
        except lmdb.Error as error:
            raise OnlineStoreUnavailableError(
                f"the online store {self.path.name} cannot be read: {error}"
            ) from error

    @contextmanager
    def writing(self, table: str) -> Iterator[Writer]:
        """As `Engine.writing`; an error takes back everything."""
        try:
            with (
                self._using(create=True) as environment,
                environment.begin(write=True) as transaction,
            ):
                writer = _LmdbWriter(transaction, _prefix(table))
                yield writer
                writer.finish()
        except lmdb.MapFullError as error:
            raise OnlineStoreUnavailableError(
                f"the online store {self.path.name} is full at {self.size_limit:,} bytes. Nothing "
                "was written; give it more by `size_limit` in feature_store.yaml."
            ) from error
        except lmdb.Error as error:
            raise OnlineStoreUnavailableError(
                f"the online store {self.path.name} cannot be written: {error}"
            ) from error

    def drop(self, tables: Iterable[str]) -> None:
        """As `Engine.drop`."""
        if self._stamp() is None:
            return
        for name in tables:
            with (
                self._using(create=False) as environment,
                environment.begin(write=True) as transaction,
            ):
                cursor: Any = transaction.cursor()
                prefix = _prefix(name)
                there = cursor.set_range(prefix)
                while there and cursor.key().startswith(prefix):
                    there = cursor.delete()

    def remove(self) -> None:
        """Remove the directory and all that is in it."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """As `Engine.close`; who reads or writes now goes on to the end."""
        with self._changed:
            opened = self._opened
            if opened is not None and opened.process == os.getpid():
                opened.is_ending = True
                if opened.users == 0:
                    self._end(opened)


@dataclass
class _Opened:
    """An open environment: its file, the process that opened it, and how many use it now."""

    environment: lmdb.Environment
    file: tuple[int, int] | None
    process: int
    users: int = 0
    is_ending: bool = False


# One LMDB database holds all tables: handles of several could only be opened by writing.
DESCRIPTION, COUNT, ROW = b"\0", b"\1", b"\2"


@lru_cache(maxsize=4096)
def _prefix(table: str) -> bytes:
    """What the keys of a table begin with."""
    return hashlib.blake2b(table.encode(), digest_size=8).digest()


def _bytes(found: Any) -> bytes | None:
    """What a transaction without buffers gives, for the type checker."""
    return found  # type: ignore[no-any-return]


def _rows(transaction: lmdb.Transaction, prefix: bytes, keys: Sequence[bytes]) -> Rows:
    if len(keys) == 1:
        return [_bytes(transaction.get(prefix + keys[0]))]
    wanted = [prefix + key for key in keys]
    found: dict[Any, Any] = dict(transaction.cursor().getmulti(list(dict.fromkeys(wanted))))
    return [found.get(key) for key in wanted]


class _LmdbWriter(Writer):
    def __init__(self, transaction: lmdb.Transaction, prefix: bytes) -> None:
        self._transaction, self._prefix = transaction, prefix
        self._before = self._entries()

    def _entries(self) -> int:
        return int(self._transaction.stat()["entries"])

    def get(self, keys: Sequence[bytes]) -> Rows:
        return _rows(self._transaction, self._prefix + ROW, keys)

    def put(self, rows: Mapping[bytes, bytes]) -> None:
        prefix = self._prefix + ROW
        self._transaction.cursor().putmulti(
            sorted((prefix + key, row) for key, row in rows.items())
        )

    def delete(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._transaction.delete(self._prefix + ROW + key)

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        prefix = self._prefix + ROW
        cursor: Any = self._transaction.cursor()
        if not cursor.set_range(prefix):
            return
        for key, row in cursor:
            if not key.startswith(prefix):
                return
            yield key[len(prefix) :], row

    def count(self) -> int:
        counted = _bytes(self._transaction.get(self._prefix + COUNT))
        return int(counted or 0) + self._entries() - self._before

    def description(self) -> bytes | None:
        return _bytes(self._transaction.get(self._prefix + DESCRIPTION))

    def describe(self, description: bytes) -> None:
        self._put_beside(DESCRIPTION, description)

    def finish(self) -> None:
        """Keep the count of rows."""
        self._put_beside(COUNT, str(self.count()).encode())

    def _put_beside(self, kind: bytes, value: bytes) -> None:
        entries = self._entries()
        self._transaction.put(self._prefix + kind, value)
        self._before += self._entries() - entries  # not a row
