"""`--option KEY=VALUE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from trimtab.runtime.errors import ConfigError


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """Key to value, which is read as JSON, or taken as it stands. Raises ConfigError where there is no `=`."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--option {text} must be KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
