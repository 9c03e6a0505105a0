"""Which rows there are, which are answered, and in which order the rest goes: on disk, so that memory stays constant.

SQLite keeps it in a nameless temporary file that vanishes with the process. It is made anew from input and output at
every start: they are the truth, and there is no second one that could contradict them.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from gpuserve.bulk.rows import Place
from gpuserve.errors import Conflict

#: The steps by which rows are told to share a prefix, in bytes of the conversation: fine ones (an engine's cache works
#: by 16 tokens or so), then coarse ones.
STEPS = (*range(64, 1024, 64), *range(1024, 16384 + 1, 512))
_CHUNK = 512

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4096;
CREATE TABLE input (pos INTEGER PRIMARY KEY, id BLOB, line INTEGER, at INTEGER, size INTEGER, ask BLOB, prefix BLOB);
CREATE TABLE output (at INTEGER PRIMARY KEY, size INTEGER, id BLOB, ask BLOB, ok INTEGER);
"""
_PENDING = """
SELECT line, input.at, input.size, input.ask FROM input LEFT JOIN output ON output.id = input.id
WHERE output.at IS NULL ORDER BY
"""


def prefix_key(body: bytes) -> bytes:
    """A key that sorts together what begins alike: check sums of the first 64 bytes, of the first 128, and so on."""
    sums, running, at = bytearray(), 0, 0
    for end in STEPS:
        running = zlib.crc32(body[at:end], running)
        sums += running.to_bytes(4, "big")
        at = end
        if at >= len(body):
            break
    return bytes(sums)


class Index:
    """The rows of one run. ``id`` and ``ask`` are digests (``rows.id_digest``, ``Request.ask``).

    Raises:
        Conflict: the directory for temporary files is full.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.executescript(_TABLES)

    def close(self) -> None:
        """Lets go of the temporary file."""
        self._base.close()

    def add_input(self, rows: Iterable[tuple[bytes, Place, bytes, bytes]]) -> int:
        """Takes (id, place, ask, prefix) of each row, in the input's order; returns how many."""
        shaped = ((one, place.line, place.at, place.size, ask, prefix) for one, place, ask, prefix in rows)
        sql = "INSERT INTO input (id, line, at, size, ask, prefix) VALUES (?, ?, ?, ?, ?, ?)"
        return self._fill(sql, "input", shaped)

    def add_output(self, rows: Iterable[tuple[int, int, bytes, bytes, bool]]) -> int:
        """Takes (at, size, id, ask, ok) of each answer; returns how many."""
        return self._fill("INSERT INTO output (at, size, id, ask, ok) VALUES (?, ?, ?, ?, ?)", "output", rows)

    def _fill(self, sql: str, table: str, rows: Iterable[tuple[object, ...]]) -> int:
        rows = iter(rows)
        with _room():
            while chunk := list(islice(rows, _CHUNK)):
                self._base.execute("BEGIN")
                self._base.executemany(sql, chunk)
                self._base.execute("COMMIT")
            self._base.execute(f"CREATE INDEX {table}_id ON {table} (id)")
            return self._number(f"SELECT count(*) FROM {table}")  # noqa: S608

    def _number(self, sql: str) -> int:
        (value,) = self._base.execute(sql).fetchone()
        return int(value)

    def twice(self, table: str = "input", most: int = 20) -> list[tuple[int, int]]:
        """Places of the first and last of rows with one custom_id: lines of the input, bytes of the output."""
        place = "line" if table == "input" else "at"
        sql = f"SELECT min({place}), max({place}) FROM {table} GROUP BY id HAVING count(*) > 1 LIMIT {most}"  # noqa: S608
        with _room():
            return sorted(self._base.execute(sql).fetchall())

    def strangers(self) -> int:
        """How many answers belong to no row of the input."""
        return self._number("SELECT count(*) FROM output WHERE id NOT IN (SELECT id FROM input)")

    def changed(self) -> list[int]:
        """Lines of rows that were answered, but to another question."""
        sql = """SELECT line FROM output JOIN input ON input.id = output.id
                 WHERE output.ask <> x'' AND output.ask <> input.ask LIMIT 5"""
        return sorted(line for (line,) in self._base.execute(sql))

    def failures(self) -> int:
        """How many of the answers are errors."""
        return self._number("SELECT count(*) FROM output WHERE NOT ok")

    def success(self, one: bytes) -> bool | None:
        """Whether a row's answer succeeded; None if it has none."""
        row = self._base.execute("SELECT ok FROM output WHERE id = ?", (one,)).fetchone()
        return bool(row[0]) if row else None

    def forget(self, one: bytes) -> None:
        """Forgets a row's answer."""
        self._base.execute("DELETE FROM output WHERE id = ?", (one,))

    def drop_failures(self) -> None:
        """Forgets the answers that are errors; the places of the others are no longer right then."""
        self._base.execute("DELETE FROM output WHERE NOT ok")

    def pending(self, *, by_prefix: bool) -> Iterator[Place]:
        """The rows without an answer, in the order in which they are to be sent."""
        cursor = self._base.execute(_PENDING + ("prefix, pos" if by_prefix else "pos"))
        while chunk := cursor.fetchmany(_CHUNK):
            for row in chunk:
                yield Place(*row)

    def answered(self) -> Place | None:
        """A row that an earlier run got an answer to; None if there is none."""
        sql = "SELECT line, input.at, input.size, input.ask FROM input JOIN output USING (id) WHERE ok LIMIT 1"
        row = self._base.execute(sql).fetchone()
        return Place(*row) if row else None

    def kept(self, *, in_order: bool, failed: bool) -> Iterator[tuple[int, int]]:
        """Places of the answers, in the input's order or their own, without the errors unless ``failed``."""
        which = "1" if failed else "output.ok"
        if in_order:
            sql = f"SELECT output.at, output.size FROM input JOIN output USING (id) WHERE {which} ORDER BY pos"  # noqa: S608
        else:
            sql = f"SELECT at, size FROM output WHERE {which} ORDER BY at"  # noqa: S608
        yield from self._base.execute(sql)

    def in_order(self) -> bool:
        """Whether the answers stand in the order of the input already."""
        sql = """SELECT count(*) FROM (SELECT output.at AS at, lag(output.at) OVER (ORDER BY pos) AS before
                 FROM input JOIN output USING (id)) WHERE at < before"""
        return self._number(sql) == 0


@contextmanager
def _room() -> Iterator[None]:
    """Tells of a full disk as what it is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Conflict(
            f"no room for temporary files: {error}", hint="free some space, or set SQLITE_TMPDIR, and run it again"
        ) from error
