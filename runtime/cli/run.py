"""`trimtab run`: the daemon."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from trimtab.runtime.daemon import Daemon
from trimtab.runtime.errors import TrimtabError
from trimtab.runtime.systemd import Notifier


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Log everything.")
def run(config: Path, verbose: bool) -> None:
    """Serve the streams of CONFIG until SIGTERM; SIGHUP reloads it."""
    set_up_log(verbose)
    daemon = Daemon(config, Notifier())  # what a user has to mend ends here, with status 2
    try:
        daemon.run()
    except TrimtabError as error:  # what time or a restart may mend ends with status 1
        logging.getLogger("trimtab").error("%s", error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


class Lines(logging.Formatter):
    """One line an event; under systemd with its priority in front and no time, which the journal adds itself."""

    PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def __init__(self, systemd: bool) -> None:
        super().__init__("%(name)s: %(message)s" if systemd else "%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._systemd = systemd

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._systemd:
            return text
        priority = next((p for level, p in self.PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def set_up_log(verbose: bool) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
