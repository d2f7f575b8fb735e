"""What the daemon must not forget: one SQLite file, written by one transaction a turn of the pipeline.

The order that makes decisions look as if each was made exactly once:

1. the pipeline turns; what it says, the state after it, and the marks of the messages that are done with are committed
   here, together;
2. only then is it published; a row leaves `outbox` when the broker has confirmed it;
3. only then are the messages acknowledged to the broker.

Killed between 1 and 2, the same bytes are published after the restart; killed between 2 and 3, the messages come again,
are known by their marks, and are acknowledged without being looked at. Killed before 1, nothing was said yet.

The write-ahead log is not synced at every commit (`synchronous=NORMAL`): what is committed survives the death of the
process, which is what happens; a power cut may lose the last moments, but never the file. `sync: full` closes that gap
at the price of one disk flush a turn.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgpack

from trimtab.adapters.versions import Row
from trimtab.runtime.errors import JournalError

SCHEMA = 1
MARKS = 8192
"""Marks of messages kept at the least, newest first."""
MARK = 16
"""Bytes of a mark."""
COMMANDS = 1000
"""Results of commands kept."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (last INTEGER PRIMARY KEY, messages BLOB NOT NULL);
CREATE TABLE marks (last INTEGER PRIMARY KEY, marks BLOB NOT NULL);
CREATE TABLE streams (name TEXT PRIMARY KEY, decided INTEGER NOT NULL, snapshot TEXT NOT NULL, rows BLOB) WITHOUT ROWID;
CREATE TABLE versions (stream TEXT NOT NULL, number INTEGER NOT NULL, parent INTEGER, method TEXT NOT NULL,
 evidence TEXT NOT NULL, time REAL NOT NULL, theta BLOB NOT NULL,
 states BLOB NOT NULL DEFAULT x'', PRIMARY KEY (stream, number));
CREATE TABLE stepped (stream TEXT PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE in_use (stream TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE commands (id TEXT PRIMARY KEY, time REAL NOT NULL, result BLOB NOT NULL);
"""
"""One row a turn, not one a message: that keeps a turn cheap. outbox.last, marks.last: number of the turn's last
one. outbox.messages: MessagePack of [topic, payload, retain]. marks.marks: MARK bytes each. streams.rows: the open
window's float32 rows. stepped.state: see
`Stepping.state`. versions.theta, states: see `Row`. in_use: which version is."""

Streams = dict[str, tuple[int, dict[str, Any] | None]]
"""Windows decided and snapshot, by stream."""
StreamVersions = dict[str, tuple[dict[str, Any], list[Row]]]
"""State and rows of the versions, by stream."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish; `payload` is sent as it is, however often."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(slots=True)
class Turn:
    """What one transaction writes."""

    messages: Sequence[Message] = ()
    marks: Sequence[bytes] = ()
    """Of the input messages that are done with, MARK bytes each."""
    streams: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Snapshots of the streams that changed (`Pipeline.snapshot`)."""
    versions: Mapping[str, tuple[dict[str, Any], list[Row]]] = field(default_factory=dict)
    """State and rows of the versions of the streams where they changed (`Versions.state`, `Versions.to_rows`)."""
    confirmed: int | None = None
    """The broker has every message up to this number."""
    commands: Sequence[tuple[str, bytes]] = ()
    """Number and result of commands that gave a number."""


class Journal:
    """The journal in file `path`, for the bundle whose manifest has the hash `bundle`.

    What an older bundle left: messages still to be published, marks and window numbers are kept (a number is never
    given twice); windows, drift state and versions of that bundle mean nothing to this one and are dropped, which
    `started_anew` then says.

    Raises JournalError where the file is of a newer trimtab, is damaged, cannot be written, or is in use.
    """

    def __init__(self, path: Path, bundle: str, sync: Literal["normal", "full"] = "normal") -> None:
        self.path = path
        self.started_anew = False
        self._stepped: dict[str, bytes] = {}  # what was written last: it is large, and often the same
        try:
            with ExitStack() as opened:
                self._claimed = opened.enter_context(closing(_claim(path)))
                connection = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
                self._db = opened.enter_context(closing(connection))
                self._open(bundle, sync)
                opened.pop_all()
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {_reason(error)}") from None

    def _open(self, bundle: str, sync: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={'FULL' if sync == 'full' else 'NORMAL'}")
        db.execute("BEGIN EXCLUSIVE")
        if not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('schema', ?), ('bundle', ?)", (str(SCHEMA), bundle))
        else:
            meta = dict(db.execute("SELECT key, value FROM meta"))
            _check_schema(self.path, meta)
            if "states" not in [column[1] for column in db.execute("PRAGMA table_info(versions)")]:
                db.execute("ALTER TABLE versions ADD COLUMN states BLOB NOT NULL DEFAULT x''")
                db.execute("CREATE TABLE stepped (stream TEXT PRIMARY KEY, state BLOB NOT NULL)")
            if meta["bundle"] != bundle:
                self._adopt(bundle)
                self.started_anew = True
        db.execute("COMMIT")
        self._outbox = int(db.execute("SELECT coalesce(max(last), 0) FROM outbox").fetchone()[0])
        self._mark = int(db.execute("SELECT coalesce(max(last), 0) FROM marks").fetchone()[0])

    def adopt(self, bundle: str) -> None:
        """Serve another bundle from now on: keep numbers, marks and messages, drop the rest."""
        try:
            self._db.execute("BEGIN")
            self._adopt(bundle)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unwritable(error) from None

    def _adopt(self, bundle: str) -> None:
        self._db.execute("UPDATE streams SET snapshot = 'null', rows = NULL")
        self._db.execute("DELETE FROM versions")
        self._db.execute("DELETE FROM stepped")
        self._stepped.clear()
        self._db.execute("DELETE FROM in_use")
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'bundle'", (bundle,))

    # -- what is remembered -----------------------------------------------------------------------------------------

    def unconfirmed(self) -> list[tuple[int, Message]]:
        """What may not have reached the broker, in order; of a turn that has in part, all."""
        found = []
        for last, packed in self._db.execute("SELECT last, messages FROM outbox ORDER BY last"):
            messages = msgpack.unpackb(packed)
            found += [(n, Message(*message)) for n, message in enumerate(messages, last + 1 - len(messages))]
        return found

    def marks(self) -> list[bytes]:
        """Of the newest messages that are done with, oldest first."""
        rows = self._db.execute("SELECT marks FROM marks ORDER BY last")
        return [marks[i : i + MARK] for (marks,) in rows for i in range(0, len(marks), MARK)]

    def streams(self) -> Streams:
        """How many windows of each stream are decided, and its snapshot; None where that was another bundle's."""
        found = _read_streams(self._db)
        for name, state in self._db.execute("SELECT stream, state FROM stepped"):
            if (snapshot := found[name][1]) is not None:
                snapshot["stepping"] = state
        return found

    def versions(self) -> StreamVersions:
        """State and rows of each stream's versions."""
        return _read_versions(self._db)

    def filters(self) -> list[str]:
        """The topic filters that the broker's session may still hold."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'filters'").fetchone()
        return list(json.loads(row[0])) if row else []

    def subscribed(self, filters: Sequence[str]) -> None:
        """Remember what the broker has been asked for: a session outlives a change of the configuration."""
        try:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('filters', ?)", (json.dumps(list(filters)),))
        except sqlite3.Error as error:
            raise self._unwritable(error) from None

    def command(self, number: str) -> bytes | None:
        """The result of the command of that number, where it was done before."""
        row = self._db.execute("SELECT result FROM commands WHERE id = ?", (number,)).fetchone()
        return row[0] if row else None

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(self, turn: Turn) -> list[int]:
        """Commit a turn. Returns the numbers of its messages; raises JournalError where it cannot be written."""
        db = self._db
        numbers = list(range(self._outbox + 1, self._outbox + 1 + len(turn.messages)))
        mark = self._mark + len(turn.marks)
        try:
            db.execute("BEGIN")
            try:
                if turn.confirmed is not None:
                    db.execute("DELETE FROM outbox WHERE last <= ?", (turn.confirmed,))
                if numbers:
                    packed = msgpack.packb([(m.topic, m.payload, m.retain) for m in turn.messages])
                    db.execute("INSERT INTO outbox VALUES (?, ?)", (numbers[-1], packed))
                if turn.marks:
                    db.execute("INSERT INTO marks VALUES (?, ?)", (mark, b"".join(turn.marks)))
                    db.execute("DELETE FROM marks WHERE last <= ?", (mark - MARKS,))
                if turn.streams:
                    db.executemany("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", _streams(turn.streams))
                    for name, snapshot in turn.streams.items():
                        state = snapshot.get("stepping")
                        if state is not None and state is not self._stepped.get(name):
                            db.execute("INSERT OR REPLACE INTO stepped VALUES (?, ?)", (name, state))
                            self._stepped[name] = state
                for stream, (state, versions) in turn.versions.items():
                    db.execute("INSERT OR REPLACE INTO in_use VALUES (?, ?)", (stream, json.dumps(state)))
                    db.execute("DELETE FROM versions WHERE stream = ?", (stream,))
                    db.executemany(
                        "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(stream, *row) for row in versions]
                    )
                for number, result in turn.commands:
                    db.execute("INSERT OR REPLACE INTO commands VALUES (?, ?, ?)", (number, time.time(), result))
                if turn.commands:
                    db.execute("DELETE FROM commands WHERE rowid <= (SELECT max(rowid) FROM commands) - ?", (COMMANDS,))
                db.execute("COMMIT")
            except BaseException:
                db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._unwritable(error) from None
        self._outbox += len(numbers)
        self._mark = mark
        return numbers

    def _unwritable(self, error: sqlite3.Error) -> JournalError:
        return JournalError(f"{self.path}: cannot be written ({error}); see whether the disk is full")

    def close(self) -> None:
        """Fold the write-ahead log into the file, and close it."""
        self._db.close()
        self._claimed.close()


def look(path: Path, bundle: str) -> tuple[Streams, StreamVersions]:
    """What the journal in `path` remembers of streams and of versions, as of one moment, also while a daemon writes it.

    Nothing is written, and nothing waits for this. Raises JournalError where there is no journal, where it is of a
    newer trimtab or of another bundle than the one whose manifest has the hash `bundle`, or cannot be read.
    """
    if not path.is_file():
        raise JournalError(f"{path}: no such journal; a daemon makes it when it first starts, with `trimtab run`")
    # Without a write-ahead log no daemon has it open, and all is in the file itself: it can then be read without
    # leaving anything beside it, and by a user who may not write there.
    rest = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{rest}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=2.0, isolation_level=None)) as db:
            db.execute("BEGIN")
            meta = dict(db.execute("SELECT key, value FROM meta"))
            _check_schema(path, meta)
            if meta["bundle"] != bundle:
                raise JournalError(
                    f"{path}: is of another bundle than the configuration's; name under `bundle` the one that the "
                    "daemon served, or start the daemon, which begins the journal anew"
                )
            return _read_streams(db), _read_versions(db)
    except sqlite3.Error as error:
        if "unable to open" in str(error) or "readonly" in str(error):
            raise JournalError(f"{path}: cannot be read ({error}); see that this user may") from None
        raise JournalError(f"{path}: {_reason(error)}") from None


def _claim(path: Path) -> sqlite3.Connection:
    """A lock that says that a daemon writes the journal; it ends with this process, however that ends.

    It lies on an empty database beside the journal, which itself stays open to readers.
    """
    lock = sqlite3.connect(
        path.with_name(path.name + "-lock"), timeout=2.0, isolation_level=None, check_same_thread=False
    )
    try:
        lock.execute("PRAGMA journal_mode=OFF")  # nothing is ever written to it
        lock.execute("BEGIN EXCLUSIVE")
    except BaseException:
        lock.close()
        raise
    return lock


def _check_schema(path: Path, meta: Mapping[str, str]) -> None:
    schema = int(meta["schema"])
    if schema > SCHEMA:
        raise JournalError(
            f"{path}: was written by a newer trimtab (schema {schema}; this one knows {SCHEMA}); "
            "update trimtab, or name another file under `journal`"
        )


def _read_streams(db: sqlite3.Connection) -> Streams:
    found: Streams = {}
    for name, decided, text, rows in db.execute("SELECT name, decided, snapshot, rows FROM streams"):
        snapshot = json.loads(text)
        if snapshot is not None and rows is not None:
            snapshot["window"]["rows"] = rows
        found[name] = (decided, snapshot)
    return found


def _read_versions(db: sqlite3.Connection) -> StreamVersions:
    found: StreamVersions = {
        stream: (json.loads(state), []) for stream, state in db.execute("SELECT stream, state FROM in_use")
    }
    for stream, *row in db.execute("SELECT * FROM versions ORDER BY stream, number"):
        number, parent, method, evidence, moment, theta, *states = row  # an older trimtab's journal has no states
        found[stream][1].append((number, parent, method, evidence, moment, theta, states[0] if states else b""))
    return found


def _streams(snapshots: Mapping[str, dict[str, Any]]) -> Iterable[tuple[str, int, str, bytes | None]]:
    for name, snapshot in snapshots.items():
        snapshot = {key: value for key, value in snapshot.items() if key != "stepping"}  # which has its own table
        window = snapshot["window"]
        rows = None
        if window is not None:
            rows = window["rows"]
            snapshot = {**snapshot, "window": {k: v for k, v in window.items() if k != "rows"}}
        yield name, snapshot["decided"], json.dumps(snapshot), rows


def _reason(error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text:
        return "is in use by another daemon; stop it, or name another file under `journal`"
    if "unable to open" in text or "readonly" in text or "read-only" in text:
        return f"cannot be written ({text}); see that its folder exists and is this user's"
    return f"is no journal, or is damaged ({text}); move it away to start with an empty one"
