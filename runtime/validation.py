"""pydantic's findings as one sentence that names the file and the key."""

from __future__ import annotations

from pydantic import ValidationError


def sentence(error: ValidationError, file: str) -> str:
    """The first finding of `error` as `FILE: KEY: what is wrong (found ...)`, and how many more there are."""
    findings = error.errors(include_url=False)
    first = findings[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        text = "no such key; see docs/config.md for the keys there are"
    elif first["type"] == "missing":
        text = "is missing"
    elif first["type"] == "value_error":
        text = str(first["ctx"]["error"])
    else:
        found = repr(first["input"])
        shown = found if len(found) < 60 else found[:57] + "..."
        text = f"{first['msg'][0].lower()}{first['msg'][1:]} (found {shown})"
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return f"{file}: {key + ': ' if key else ''}{text}{more}"
