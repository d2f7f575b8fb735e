"""The command line: one thin command a file over the library, imported only when it is called."""

from __future__ import annotations

import importlib
import os
from typing import NoReturn

import click

from trimtab.runtime.errors import TrimtabError

COMMANDS = {
    "export": "trimtab.runtime.cli.export:export",
    "import": "trimtab.runtime.cli.import_onnx:import_onnx",
    "run": "trimtab.runtime.cli.run:run",
    "replay": "trimtab.runtime.cli.replay:replay",
    "demo": "trimtab.runtime.cli.demo:demo",
    "versions": "trimtab.runtime.cli.versions:versions",
    "command": "trimtab.runtime.cli.command:command",
    "doctor": "trimtab.runtime.cli.doctor:doctor",
    "detectors": "trimtab.runtime.cli.detectors:detectors",
    "drift": "trimtab.runtime.cli.drift:drift",
    "methods": "trimtab.runtime.cli.methods:methods",
    "config": "trimtab.runtime.cli.config:config",
}


class LazyGroup(click.Group):
    """Imports a command's module when that command is asked for: `trimtab run` must not load a plotting library."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="trimtab")
def cli() -> None:
    """Run models at the edge that notice drift, adapt a few numbers, and check that it helped."""


def main() -> NoReturn:
    """The console script: a user's mistake is one sentence on stderr and exit status 2, not a traceback."""
    # Before NumPy is imported. Our matrices are small; where cores are busy, threads of the BLAS wait for each other
    # (measured: a product took 12 ms instead of 1), and how they share the work must not decide about a last bit.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        cli()
    except TrimtabError as error:
        click.echo(f"trimtab: {error}", err=True)
        raise SystemExit(2) from None
    raise SystemExit(0)
