"""Topic filters: what their wildcards stand for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

LONGEST = 65535
"""Bytes of a topic (MQTT 5, 1.5.4)."""


def captured(pattern: str, topic: str) -> list[str] | None:
    """What the wildcards of topic filter `pattern` stand for in `topic`; None where it does not match (MQTT 5, 4.7)."""
    if pattern.startswith("$share/"):
        pattern = pattern.split("/", 2)[-1]
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return None
    wanted, found = pattern.split("/"), topic.split("/")
    parts: list[str] = []
    for i, level in enumerate(wanted):
        if level == "#":
            return [*parts, "/".join(found[i:])]
        if i >= len(found):
            return None
        if level == "+":
            parts.append(found[i])
        elif level != found[i]:
            return None
    return parts if len(found) == len(wanted) else None


def filled(pattern: str, parts: Sequence[str]) -> str | None:
    """The topic that `pattern` matches with `parts` in its wildcards' places; None where their number differs."""
    levels = pattern.split("/", 2)[-1].split("/") if pattern.startswith("$share/") else pattern.split("/")
    if sum(level in ("+", "#") for level in levels) != len(parts):
        return None
    rest = iter(parts)
    return "/".join(next(rest) if level in ("+", "#") else level for level in levels)


def fault(pattern: str) -> str | None:
    """What is wrong with a topic filter, and the mend; None where it is a right one (MQTT 5, 4.7 and 4.8.2)."""
    levels = pattern.split("/")
    if levels[0] == "$share":
        if len(levels) < 3 or not levels[1] or set(levels[1]) & set("+#") or levels[2:] == [""]:
            return "is no shared filter; write $share/GROUP/FILTER"
        levels = levels[2:]
    if not pattern or "\0" in pattern or len(pattern.encode("utf-8", "replace")) > LONGEST:
        return f"is no topic filter; give 1 to {LONGEST} bytes without NUL"
    if "#" in "".join(levels[:-1]) or ("#" in levels[-1] and levels[-1] != "#"):
        return "has # elsewhere than as its whole last level; put it there, or use + for one level"
    if any("+" in level and level != "+" for level in levels):
        return "has + as a part of a level; let it stand for a whole level"
    return None


def overlap(one: str, other: str) -> bool:
    """Whether there is a topic that both filters match."""
    a, b = (p.split("/", 2)[-1] if p.startswith("$share/") else p for p in (one, other))
    if any(x.startswith("$") and y[:1] in ("+", "#") for x, y in ((a, b), (b, a))):
        return False
    for x, y in zip_longest(a.split("/"), b.split("/")):
        if "#" in (x, y):
            return True
        if x is None or y is None or (x != y and "+" not in (x, y)):
            return False
    return True
