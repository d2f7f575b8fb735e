"""From a configuration file to a pipeline that can run: at the start, and again at every reload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from trimtab.runtime.bundle import load_bundle
from trimtab.runtime.clock import SystemClock
from trimtab.runtime.config import Config, load_config, said_of
from trimtab.runtime.errors import ConfigError
from trimtab.runtime.executors import Executor
from trimtab.runtime.mqtt import secure
from trimtab.runtime.pipeline import Pipeline
from trimtab.runtime.sessions import Engine


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what was made of it."""

    config: Config
    pipeline: Pipeline
    digest: str
    """sha256 of the bundle's manifest, which in turn covers all its files."""


def load(path: Path, executor: Executor, running: Loaded | None = None) -> Loaded:
    """Read the configuration in `path` and build what it asks for.

    Where `running` has the same bundle and sessions, its engine serves on. Raises TrimtabError, one sentence, where
    the file, the bundle, a provider or a file for the connection cannot be used; `running` is then as it was.
    """
    config = load_config(path)
    if not config.streams:
        raise ConfigError(f"{path}: streams: is empty; name at least one topic")
    bundle = load_bundle(config.bundle)
    digest = bundle.digest
    with said_of(path):
        # What the connection needs is looked at here too, so that a reload with a wrong file is refused as a whole.
        secure(paho.Client(CallbackAPIVersion.VERSION2), config.mqtt)
        if (
            running is not None
            and digest == running.digest
            and config.sessions == running.config.sessions
            and config.batch.size == running.config.batch.size
        ):
            engine = running.pipeline.engine
        else:
            engine = Engine(bundle, config.sessions, executor, batch=config.batch.size)
        pipeline = Pipeline(bundle, config, engine, SystemClock(), executor, resumable=True)
    return Loaded(config, pipeline, digest)
