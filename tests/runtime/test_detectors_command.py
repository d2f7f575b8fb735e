"""`trimtab detectors`."""

from __future__ import annotations

import json

from click.testing import CliRunner

from trimtab.drift.catalogue import describe, names
from trimtab.runtime.cli import cli


def test_it_lists_each_detector_with_its_options() -> None:
    result = CliRunner().invoke(cli, ["detectors"])
    assert result.exit_code == 0
    for name in names():
        assert f"{name}: {describe(name).watches}" in result.output
        for option in describe(name).options.values():
            assert option.meaning in result.output


def test_one_detector_as_json() -> None:
    result = CliRunner().invoke(cli, ["detectors", "sprt", "--json"])
    found = json.loads(result.output)
    assert list(found) == ["sprt"]
    assert found["sprt"]["options"]["warmup"]["default"] == 64


def test_an_unknown_name_is_one_sentence() -> None:
    result = CliRunner().invoke(cli, ["detectors", "psychic"])
    assert result.exit_code == 2
    assert "detector 'psychic' is unknown; choose one of sprt, " in result.output
