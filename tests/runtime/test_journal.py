from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.adapters.versions import Versions
from trimtab.runtime.errors import JournalError
from trimtab.runtime.journal import MARKS, Journal, Message, Turn, look


def snapshot(decided: int, rows: bytes = b"\x00\x01") -> dict[str, Any]:
    return {
        "decided": decided,
        "window": {"sequence": decided, "time": 1.5, "skip": 0, "rows": rows},
        "monitor": {"mean": 0.1 + 0.2, "seed": 2**127, "bound": math.inf},
        "adaptation": {"state": "stable"},
    }


def test_a_turn_is_there_after_reopening(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", "a")
    messages = [Message("t/decision/s", b"{}"), Message("t/state/s", b"\xff", retain=True)]
    assert journal.write(Turn(messages=messages, marks=[b"1" * 16, b"2" * 16], streams={"s": snapshot(3)})) == [1, 2]
    journal.close()
    again = Journal(tmp_path / "j.db", "a")
    assert again.unconfirmed() == [(1, messages[0]), (2, messages[1])]
    assert again.marks() == [b"1" * 16, b"2" * 16]
    assert again.streams() == {"s": (3, snapshot(3))}
    assert not again.started_anew
    assert again.write(Turn(messages=[messages[0]], confirmed=1)) == [3]
    assert [n for n, _ in again.unconfirmed()] == [1, 2, 3]  # a turn goes as a whole
    again.write(Turn(confirmed=2))
    assert [n for n, _ in again.unconfirmed()] == [3]
    again.close()


def test_what_a_killed_process_committed_is_kept(tmp_path: Path) -> None:
    """The files as they are while the journal is open: what a kill would leave."""
    journal = Journal(tmp_path / "j.db", "a")
    journal.write(Turn(messages=[Message("t", b"1")]))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tmp_path.glob("j.db*"):
        (copy / file.name).write_bytes(file.read_bytes())
    journal.close()
    left = Journal(copy / "j.db", "a")
    assert [m.payload for _, m in left.unconfirmed()] == [b"1"]
    left.close()


def test_versions_and_commands_are_kept(tmp_path: Path) -> None:
    versions = Versions(np.zeros(5, np.float32))
    versions.add(np.arange(5, dtype=np.float32), "norm_statistics", {"gain": 0.25}, 12.5)
    journal = Journal(tmp_path / "j.db", "a")
    for _ in range(2):  # written again, it replaces what was there
        journal.write(Turn(versions={"s": (versions.state(), versions.to_rows())}, commands=[("id-1", b"done")]))
    journal.close()
    again = Journal(tmp_path / "j.db", "a")
    state, rows = again.versions()["s"]
    restored = Versions(np.zeros(5, np.float32))
    restored.restore(state, rows)
    assert restored.current.number == 1
    np.testing.assert_array_equal(restored.current.theta, np.arange(5))
    assert (again.command("id-1"), again.command("id-2")) == (b"done", None)
    again.close()


def test_it_can_be_looked_at_while_it_is_written_and_afterwards(tmp_path: Path) -> None:
    versions = Versions(np.zeros(5, np.float32))
    file = tmp_path / "a journal?.db"
    journal = Journal(file, "a")
    journal.write(Turn(streams={"s": snapshot(3)}, versions={"s": (versions.state(), versions.to_rows())}))
    while_open = look(file, "a")
    assert while_open == (journal.streams(), journal.versions())
    journal.write(Turn(streams={"s": snapshot(4)}))
    assert look(file, "a")[0]["s"][0] == 4
    journal.close()
    before = sorted(p.name for p in tmp_path.iterdir())
    assert look(file, "a") == ({"s": (4, snapshot(4))}, while_open[1])
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "looking leaves nothing behind"


def test_looking_at_what_is_no_journal_of_this_bundle_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such journal; a daemon makes it"):
        look(tmp_path / "j.db", "a")
    Journal(tmp_path / "j.db", "a").close()
    with pytest.raises(JournalError, match="is of another bundle"):
        look(tmp_path / "j.db", "b")
    (tmp_path / "bad.db").write_bytes(b"no database at all, " * 100)
    with pytest.raises(JournalError, match="no journal, or is damaged"):
        look(tmp_path / "bad.db", "a")
    with closing(sqlite3.connect(tmp_path / "j.db")) as db, db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    with pytest.raises(JournalError, match="newer trimtab"):
        look(tmp_path / "j.db", "a")


def test_another_bundle_keeps_numbers_messages_and_marks_only(tmp_path: Path) -> None:
    versions = Versions(np.zeros(5, np.float32))
    journal = Journal(tmp_path / "j.db", "a")
    turn = Turn(
        messages=[Message("t", b"1")],
        marks=[b"m" * 16],
        streams={"s": snapshot(7)},
        versions={"s": (versions.state(), versions.to_rows())},
    )
    journal.write(turn)
    journal.close()
    again = Journal(tmp_path / "j.db", "b")
    assert again.started_anew
    assert again.streams() == {"s": (7, None)}
    assert again.versions() == {}
    assert len(again.unconfirmed()) == len(again.marks()) == 1
    again.close()
    assert not Journal(tmp_path / "j.db", "b").started_anew


def test_marks_do_not_grow_without_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", "a")
    for start in range(0, 4 * MARKS, 512):
        journal.write(Turn(marks=[(start + i).to_bytes(16, "big") for i in range(512)]))
    marks = journal.marks()
    assert MARKS <= len(marks) <= MARKS + 1024
    assert marks[-1] == (4 * MARKS - 1).to_bytes(16, "big")
    journal.close()


def test_a_journal_in_use_a_newer_one_and_a_damaged_one_get_a_sentence(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db", "a")
    with pytest.raises(JournalError, match="in use by another daemon"):
        Journal(tmp_path / "j.db", "a")
    journal.close()
    with sqlite3.connect(tmp_path / "j.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    with pytest.raises(JournalError, match="newer trimtab"):
        Journal(tmp_path / "j.db", "a")
    (tmp_path / "bad.db").write_bytes(b"no database at all, " * 100)
    with pytest.raises(JournalError, match="no journal, or is damaged"):
        Journal(tmp_path / "bad.db", "a")
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    with pytest.raises(JournalError, match="no journal, or is damaged"):
        Journal(tmp_path / "other.db", "a")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path / "missing" / "j.db", "a")
