"""Topic filters: what their wildcards stand for."""

from __future__ import annotations

from collections.abc import Sequence


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
