from __future__ import annotations

import json

import pytest

from trimtab.runtime.config import Config
from trimtab.runtime.errors import PayloadError
from trimtab.runtime.intake import Command, Labels, Order, Routes, Sensor, mark, read_label, read_order
from trimtab.runtime.mqtt import Delivery
from trimtab.runtime.topics import captured, filled


# The matching ones and most others are the examples of the MQTT 5 specification, section 4.7.
@pytest.mark.parametrize(
    ("pattern", "topic", "parts"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", [""]),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", ["ranking"]),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", ["score/wimbledon"]),
        ("sport/#", "sport", [""]),
        ("#", "a/b", ["a/b"]),
        ("sport/tennis/+", "sport/tennis/player1", ["player1"]),
        ("sport/tennis/+", "sport/tennis/player1/ranking", None),
        ("sport/+", "sport", None),
        ("sport/+", "sport/", [""]),
        ("+/+", "/finance", ["", "finance"]),
        ("/+", "/finance", ["finance"]),
        ("+", "/finance", None),
        ("#", "$SYS/x", None),
        ("+/monitor/Clients", "$SYS/monitor/Clients", None),
        ("$SYS/#", "$SYS/monitor", ["monitor"]),
        ("$share/group/a/+", "a/b", ["b"]),
        ("a/b", "a/b", []),
        ("a/b", "a/c", None),
        ("a", "a/b", None),
    ],
)
def test_filters_match_as_the_standard_says(pattern: str, topic: str, parts: list[str] | None) -> None:
    assert captured(pattern, topic) == parts


def test_wildcards_carry_over_to_another_filter() -> None:
    assert filled("sensors/+/imu", ["a"]) == "sensors/a/imu"
    assert filled("sensors/#", ["a/b"]) == "sensors/a/b"
    assert filled("sensors/+/+", ["a"]) is None


def routes(*streams: dict[str, str]) -> Routes:
    return Routes(Config.model_validate({"bundle": "b", "node": "n", "streams": list(streams)}))


def test_topics_go_where_the_configuration_says() -> None:
    found = routes({"topic": "s/+/imu", "labels": "l/+"}, {"topic": "s/+/b/#", "payload": "raw"})
    assert found.filters() == ["trimtab/n/set/+", "s/+/imu", "s/+/b/#", "l/+"]
    first, second = found.of("s/a/imu"), found.of("s/a/b/c")
    assert isinstance(first, Sensor)
    assert isinstance(second, Sensor)
    assert (first.settings.payload, second.settings.payload) == ("json", "raw")
    assert found.of("l/a") == Labels("s/a/imu")
    assert found.of("trimtab/n/set/pin") == Command("pin")
    assert found.of("elsewhere") is None


def test_what_we_say_ourselves_does_not_come_back_as_samples() -> None:
    found = routes({"topic": "#"})
    assert found.of("trimtab/n/decision/x") is None
    assert found.of("trimtab/n/deadletter") is None
    assert isinstance(found.of("trimtab/other/decision/x"), Sensor)


def delivery(topic: str = "t", payload: bytes = b"p", mid: int = 1) -> Delivery:
    return Delivery(topic, payload, 1, mid, False, False, {}, 0.0)


def test_a_message_is_known_by_the_brokers_number_or_by_its_own() -> None:
    assert mark(delivery(), None) == mark(delivery(), None)
    assert mark(delivery(), None) != mark(delivery(mid=2), None)
    assert mark(delivery(), 7) == mark(delivery(mid=2), 7)
    assert len({mark(delivery(topic=t, payload=p), 7) for t in ("t", "u") for p in (b"p", b"q")}) == 4


def test_orders() -> None:
    assert read_order(b"") == read_order(b" {} ") == Order()
    assert read_order(b'{"id": "1", "stream": "s", "version": 2}') == Order("1", "s", 2)
    for wrong in (b"[]", b"{", b'{"id": 1}', b'{"stream": 1}', b'{"version": -1}', b'{"version": true}', b'{"x": 1}'):
        with pytest.raises(PayloadError):
            read_order(wrong)


def test_labels() -> None:
    assert read_label(b'{"sequence": 3, "label": "walk"}', Labels("s")) == ("s", 3, "walk")
    assert read_label(b'{"sequence": 3, "label": 2, "stream": "t"}', Labels(None)) == ("t", 3, 2.0)
    for wrong in (
        {"sequence": 3, "label": "a", "stream": 1},
        {"sequence": "3", "label": "a"},
        {"sequence": 3},
        {"sequence": 3, "label": True},
        {"sequence": 3, "label": 10**400},
        {"sequence": 3, "label": float("nan")},
    ):
        with pytest.raises(PayloadError):
            read_label(json.dumps(wrong).encode(), Labels("s"))
    with pytest.raises(PayloadError):
        read_label(b'{"sequence": 3, "label": "a"}', Labels(None))
