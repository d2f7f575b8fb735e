"""Which versions of its parameters each stream has had, from the journal: what there is to answer for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.runtime.journal import look

FIGURES = ("gain", "chance", "held", "labelled", "accuracy", "accuracy_now", "squared_error", "squared_error_now")
"""The evidence in the table, in this order, where a version has it; JSON has all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a stream's parameters."""

    version: int
    time: float | None
    """Unix seconds at which it was made; None for the source's."""
    parent: int | None
    method: str
    evidence: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Account:
    """One stream's versions, and where it stands."""

    stream: str
    state: str
    """Drift state."""
    decided: int
    """Windows."""
    paused: bool
    version: int
    since: float | None
    """Unix seconds at which that version was taken into use; None: from the start."""
    pinned: bool
    versions: Sequence[Entry]


SOURCE = Entry(0, None, None, "source", {})


def accounts(journal: Path, bundle: str) -> list[Account]:
    """Each stream's account from a journal, by name; `bundle` is the hash of the bundle's manifest.

    Reads only, also while a daemon writes. Raises JournalError, see `trimtab.runtime.journal.look`.
    """
    streams, versions = look(journal, bundle)
    found = []
    for name, (decided, snapshot) in sorted(streams.items()):
        # One that was never adapted or pinned has no versions in the journal, one that begins anew no snapshot.
        adaptation: dict[str, Any] = (snapshot or {}).get("adaptation", {"state": "stable", "paused": False})
        state, rows = versions.get(name, ({"current": 0, "pinned": None, "since": 0.0}, []))
        entries = [
            Entry(number, time if number else None, parent, method, json.loads(evidence))
            for number, parent, method, evidence, time, *_ in rows
        ]
        found.append(
            Account(
                name,
                adaptation["state"],
                decided,
                adaptation["paused"],
                state["current"],
                state["since"] or None,
                state["pinned"] is not None,
                entries or [SOURCE],
            )
        )
    return found


def table(account: Account) -> str:
    """A heading, and a line a version; the one in use is marked."""
    since = f" since {_when(account.since)}" if account.since is not None else ""
    rows = [["", "version", "when", "parent", "method", "evidence"]]
    for entry in account.versions:
        figures = [f"{name} {entry.evidence[name]:.3g}" for name in FIGURES if name in entry.evidence]
        rows.append(
            [
                "*" if entry.version == account.version else "",
                str(entry.version),
                _when(entry.time),
                "-" if entry.parent is None else str(entry.parent),
                entry.method,
                ", ".join(figures) or "-",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    heading = (
        f"{account.stream}: {account.state}, version {account.version}{since}, "
        f"{'pinned' if account.pinned else 'not pinned'}{', paused' if account.paused else ''}"
    )
    return "\n".join([heading, *lines])


def document(account: Account) -> dict[str, Any]:
    """An account for JSON; a figure that is not finite becomes null."""
    return {
        "stream": account.stream,
        "state": account.state,
        "decided": account.decided,
        "paused": account.paused,
        "version": account.version,
        "since": account.since,
        "pinned": account.pinned,
        "versions": [
            {
                "version": entry.version,
                "time": entry.time,
                "parent": entry.parent,
                "method": entry.method,
                "evidence": {key: v if math.isfinite(v) else None for key, v in entry.evidence.items()},
            }
            for entry in account.versions
        ],
    }


def _when(moment: float | None) -> str:
    return "-" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
