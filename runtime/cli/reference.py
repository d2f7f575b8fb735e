"""`docs/cli.md`, from the commands' own help: `python -m trimtab.runtime.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from trimtab.runtime.cli import cli

WIDTH = 100


def pages(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """`(full name, help text)` of a command and all below it."""
    settings: dict[str, Any] = {
        "terminal_width": WIDTH,
        "max_content_width": WIDTH,
        "help_option_names": ["-h", "--help"],
    }
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, context.get_help()
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from pages(found, child, context)


def reference() -> str:
    """The whole page."""
    parts = [
        "# Command line",
        "",
        "<!-- Made by `python -m trimtab.runtime.cli.reference` from the commands' own help; edit that. -->",
    ]
    for name, text in pages(cli, "trimtab"):
        parts += ["", f"## {name}", "", "```", text, "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
