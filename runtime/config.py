"""The configuration of a daemon or a replay: YAML, validated here, one model a section.

`json_schema()` is what editors use; `docs/config.md` is generated from the same descriptions.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from trimtab.runtime.errors import ConfigError, ProviderError
from trimtab.runtime.topics import fault, overlap
from trimtab.runtime.validation import NotYaml, read_yaml, sentence, shown

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would take true for 1.
        wanted = cls.model_fields[str(info.field_name)].annotation
        if wanted in (int, float) and isinstance(value, bool):
            raise ValueError(f"is {shown(value)}; give a number")
        if wanted is int and isinstance(value, str):
            raise ValueError(f"is the text {shown(value)}; give a whole number, without quotes")
        if isinstance(value, list) and (twice := [v for i, v in enumerate(value) if v in value[:i]]):
            raise ValueError(f"holds {shown(twice[0])} twice; drop one of them")
        return value


class Tls(Section):
    ca: Path | None = Field(None, description="File of the authority's certificates; the system's where absent.")
    cert: Path | None = Field(None, description="This client's certificate, where the broker asks for one.")
    key: Path | None = Field(None, description="The private key of `cert`.")

    @model_validator(mode="after")
    def _pair(self) -> Tls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together; give both or neither")
        return self


class Mqtt(Section):
    host: str = Field("localhost", min_length=1, description="The broker.")
    port: int = Field(1883, ge=1, le=65535, description="Its port; with TLS usually 8883.")
    version: Literal["5", "3.1.1"] = Field("5", description="Protocol version, in quotes.")
    client_id: str | None = Field(None, min_length=1, description="Default `trimtab-<node>`; names the session.")
    username: str | None = Field(None, description="Where the broker asks for one.")
    password_file: Path | None = Field(None, description="File whose first line is the password.")
    tls: Tls | None = Field(None, description="Present: connect with TLS (`tls: {}` for the defaults).")
    prefix: str | None = Field(
        None, min_length=1, description="Begins every topic published; default `trimtab/<node>`."
    )
    keepalive: int = Field(30, ge=5, le=3600, description="Seconds.")
    session_expiry: int = Field(
        86400, ge=0, description="Seconds for which the broker keeps what is unread while this node is away (MQTT 5)."
    )
    inflight: int = Field(
        512,
        ge=1,
        le=65535,
        description="Messages that the broker may send ahead of acknowledgements (MQTT 5; else its own limit).",
    )
    reconnect_max: Seconds = Field(30.0, description="Longest wait between two attempts to connect, seconds.")

    @field_validator("prefix")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and (set(value) & set("+#") or value.startswith("/") or value.endswith("/")):
            raise ValueError(f"is {shown(value)}; give a topic without + or # that neither begins nor ends with /")
        if value is not None and (value.startswith("$") or "\0" in value):
            raise ValueError(f"is {shown(value)}; give a topic that does not begin with $ and has no NUL")
        return value

    @model_validator(mode="after")
    def _login(self) -> Mqtt:
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file is given without username; give both or neither")
        return self


class Stream(Section):
    topic: str = Field(min_length=1, description="Topic filter; each topic that it matches is one stream.")
    payload: Literal["json", "msgpack", "raw"] = Field("json", description="How the payload is encoded.")
    dtype: Literal["float32", "float64", "int16", "int32"] = Field(
        "float32", description="Of the values in `raw` payloads, and in `msgpack` ones that carry bytes; little-endian."
    )
    labels: str | None = Field(None, description="Topic filter on which true labels arrive late.")

    @field_validator("topic", "labels")
    @classmethod
    def _filter(cls, value: str | None) -> str | None:
        if value is not None and (wrong := fault(value)) is not None:
            raise ValueError(f"{shown(value)} {wrong}")
        return value

    @model_validator(mode="after")
    def _apart(self) -> Stream:
        if self.labels == self.topic:
            raise ValueError("labels is the same filter as topic; give labels a topic of their own")
        return self


class Provider(Section):
    name: Literal["cpu", "cuda", "tensorrt"] = Field(description="Execution provider; see `trimtab doctor`.")
    required: bool = Field(False, description="Refuse to start where it does not work.")
    options: dict[str, str | int | float | bool] = Field({}, description="Passed to ONNX Runtime as they are.")


class Sessions(Section):
    providers: list[Provider] = Field([Provider(name="cpu")], min_length=1, description="In order of preference.")
    threads: int = Field(1, ge=0, description="Threads within an operator; 0: as many as there are cores.")
    slots: Positive = Field(64, description="Rows of the bank: streams that can hold a vector of their own.")
    folded: int = Field(4, ge=0, description="How many parameter vectors may have a folded session at a time.")


class Batch(Section):
    size: Positive = Field(64, description="Windows in one call of the model, across streams.")
    deadline: float = Field(0.02, ge=0, description="Seconds that a window may wait for others.")


Unit = Literal["windows", "second", "minute", "hour", "day", "week", "month"]


class FalseAlarms(Section):
    per: Unit = Field("windows", description="Unit of `every`; times need a bundle that knows its rate.")
    every: Annotated[float, Field(gt=0)] = Field(
        20000,
        description="One false alarm per stream in so many windows (or seconds, minutes, ...) is accepted.",
    )


class Discoveries(Section):
    level: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Of all alarms, at most this share is false on average (the false discovery rate)."
    )
    period: Positive = Field(
        1000,
        description="Observed windows of a stream in one test; a change is found in this one or the next.",
    )


class Drift(Section):
    detector: str = Field("sprt", description="See `trimtab detectors`.")
    options: dict[str, Any] = Field({}, description="Of that detector.")
    signals: list[Literal["divergence", "departure", "distance", "entropy", "raw", "spectra"]] = Field(
        ["divergence", "departure", "distance", "entropy"],
        min_length=1,
        description="Watched beside each other; the accepted false alarms are shared among them. `raw` and `spectra` "
        "are of the inputs, and need a bundle that knows the source's.",
    )
    errors: str | None = Field(
        None,
        description="Detector of a change of the rate of errors by late labels, such as ddm or sprt_bernoulli; it has "
        "as many false alarms again, per label.",
    )
    false_alarms: FalseAlarms = FalseAlarms()
    calibrations: list[Path] = Field(
        [],
        description="Files of `trimtab drift calibrate`, each of a column named as one of `signals`: that one's "
        "thresholds come from there instead of from the bundle.",
    )
    discoveries: Discoveries | None = Field(
        None,
        description="Present (`discoveries: {}` for the defaults): streams alarm by online FDR over all of them, and "
        "not each by `detector` and `false_alarms`.",
    )
    refractory: int = Field(256, ge=0, description="Windows after an alarm in which no other is raised.")
    observe_every: Positive = Field(1, description="Every n-th window of a stream is observed; the others only served.")

    @field_validator("discoveries", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if value is None:  # a default is not validated: this is a key without a value
            raise ValueError("is empty; give `{}` for its defaults, or leave discoveries out")
        return value

    @model_validator(mode="after")
    def _either(self) -> Drift:
        unused = {"detector", "options", "calibrations"} & self.model_fields_set
        if self.discoveries is not None and unused:
            keys = " and ".join(sorted(unused))
            raise ValueError(f"discoveries does without a detector: leave out discoveries, or {keys}")
        return self


class Guard(Section):
    holdout: Positive = Field(64, description="Recent windows held back from adaptation to judge it.")
    margin: float = Field(
        0.05, ge=0, description="How much better a candidate must score, as a share of the current score."
    )
    probation: Positive = Field(128, description="Windows after a switch in which it can still be rolled back.")


class Schedule(Section):
    per: Unit = Field("windows", description="Unit of `every`; times are those of the windows.")
    every: Annotated[float, Field(gt=0)] = Field(4096, description="So many between two tries.")


class Adaptation(Section):
    policy: Literal["on_drift", "scheduled", "always", "off"] = Field(
        "on_drift",
        description="`on_drift`: drift starts an adaptation. `scheduled`: so does `schedule`. `always`: one step graph "
        "steps on, and under guard decides, all windows.",
    )
    schedule: Schedule = Schedule()
    methods: list[Annotated[str, Field(min_length=1)]] = Field(
        ["input_calibration", "norm_statistics", "bias_vector"],
        min_length=1,
        description="Tried in this order, each on top of the ones accepted before: these, and step graphs of the "
        "bundle by their names. `always`: one step graph.",
    )
    options: dict[str, dict[str, Any]] = Field({}, description="Per method.")
    patience: Seconds = Field(
        10.0, description="Under `always`: longest time that a window waits for a step's worth of them, seconds."
    )
    memory: Annotated[int, Field(ge=16)] = Field(
        256, description="Windows remembered, balanced over predicted classes."
    )
    minimum: Annotated[int, Field(ge=8)] = Field(64, description="Fewest windows after an alarm before a first try.")
    retry: Positive = Field(32, description="Windows between two tries while drifted.")
    guard: Guard = Guard()


class Config(Section):
    """A whole configuration file."""

    bundle: Path = Field(description="Folder that `trimtab export` wrote; relative to this file.")
    node: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        description="Name of this box; default: its host name.",
    )
    streams: list[Stream] = Field([], description="What to subscribe to. A replay needs none.")
    max_streams: Positive = Field(
        4096, description="Streams that there may be; a message that would begin one more is a dead letter."
    )
    mqtt: Mqtt = Mqtt()
    sessions: Sessions = Sessions()
    batch: Batch = Batch()
    queue: Positive = Field(
        4096,
        description="Messages that may wait for the model; more of QoS 0 are dropped and counted, of QoS 1 not read.",
    )
    drift: Drift = Drift()
    adaptation: Adaptation = Adaptation()
    journal: Path | None = Field(
        None, description="SQLite file for versions, windows and decisions; default: beside this file."
    )
    journal_sync: Literal["normal", "full"] = Field(
        "normal",
        description="`normal` survives the death of the process, `full` a power cut too, with a disk flush a batch.",
    )
    drain: Seconds = Field(10.0, description="Longest time that SIGTERM waits for what is under way, seconds.")

    @field_validator("node")
    @classmethod
    def _name(cls, value: str) -> str:
        # It is a part of topics.
        if set(value) & set("+#\0") or value.startswith("/") or value.endswith("/"):
            raise ValueError(f"is {shown(value)}; give a name without + or # that neither begins nor ends with /")
        return value

    @model_validator(mode="after")
    def _routes(self) -> Config:
        for i, stream in enumerate(self.streams):
            if stream.topic.startswith(f"{self.prefix}/"):
                raise ValueError(
                    f"streams.{i}.topic: {shown(stream.topic)} lies under this node's own prefix {self.prefix}, which "
                    "is not listened to; give the topic of a sensor, or set another mqtt.prefix"
                )
            # A broker may send what matches two filters twice, and only one of their payloads can be right.
            for k, earlier in enumerate(self.streams[:i]):
                if overlap(stream.topic, earlier.topic):
                    raise ValueError(
                        f"streams.{i}.topic: {shown(stream.topic)} takes topics that streams.{k}.topic "
                        f"{shown(earlier.topic)} takes too; narrow one of them"
                    )
        return self

    @property
    def prefix(self) -> str:
        return self.mqtt.prefix or f"trimtab/{self.node}"

    @property
    def client_id(self) -> str:
        return self.mqtt.client_id or f"trimtab-{self.node}"


def parse_config(raw: object, file: str) -> Config:
    """Validate a parsed YAML document. Raises ConfigError with one sentence that names `file` and the key."""
    if not isinstance(raw, dict):
        found = "is empty" if raw is None else "holds no mapping of keys to values"
        raise ConfigError(f"{file}: {found}; give it at least `bundle: FOLDER`")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(sentence(error, file, Config)) from None


@contextmanager
def said_of(file: Path | None) -> Iterator[None]:
    """Let what is found wrong with a configuration later on (its bundle does not fit, say) name its file, too."""
    try:
        yield
    except (ConfigError, ProviderError) as error:
        if file is None:
            raise
        raise type(error)(f"{file}: {error}") from error.__cause__


def load_config(path: str | Path) -> Config:
    """Read a configuration file; paths in it are made relative to its folder.

    Raises ConfigError where it is missing, is not YAML, or does not hold what it should.
    """
    path = Path(path)
    try:
        raw = read_yaml(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give a configuration file (see docs/config.md)") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a configuration file") from None
    except NotYaml as error:
        raise ConfigError(f"{path}: {error}") from None
    config = parse_config(raw, str(path))
    base = path.parent

    def anchored(p: Path | None) -> Path | None:
        return None if p is None else base / p

    mqtt = config.mqtt.model_copy(update={"password_file": anchored(config.mqtt.password_file)})
    if mqtt.tls is not None:
        tls = mqtt.tls.model_copy(update={key: anchored(getattr(mqtt.tls, key)) for key in ("ca", "cert", "key")})
        mqtt = mqtt.model_copy(update={"tls": tls})
    drift = config.drift.model_copy(update={"calibrations": [base / file for file in config.drift.calibrations]})
    return config.model_copy(
        update={
            "bundle": base / config.bundle,
            "drift": drift,
            "journal": anchored(config.journal) or path.with_suffix(".journal.db"),
            "mqtt": mqtt,
        }
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
