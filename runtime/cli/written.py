"""Files that a command is to write, looked at before it begins with what takes its time."""

from __future__ import annotations

import os
from pathlib import Path

import click

from trimtab.runtime.errors import ConfigError


def check_written(file: Path | None, option: str, *read: Path) -> None:
    """Raises UsageError where `file` is one of those `read`, ConfigError where it cannot be written."""
    if file is None:
        return
    for other in read:
        if file.exists() and other.exists() and file.samefile(other):
            what = "the recording itself" if other == read[0] else str(other)
            raise click.UsageError(f"{option} is {what}; name another file")
    folder = file.parent
    if not folder.is_dir():
        raise ConfigError(f"{file}: cannot be written (there is no folder {folder}); name another file for {option}")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise ConfigError(f"{file}: cannot be written (permission denied); name another file for {option}")
