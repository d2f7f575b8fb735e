from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from trimtab.runtime.cli.config import config

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("command", "file"), [("docs", "config.md"), ("schema", "config.schema.json")])
def test_the_reference_is_that_of_the_code(command: str, file: str) -> None:
    result = CliRunner().invoke(config, [command])
    kept = (DOCS / file).read_text(encoding="utf-8")
    assert result.output == kept, f"run: trimtab config {command} > docs/{file}"


def test_every_key_is_described() -> None:
    rows = [line for line in (DOCS / "config.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if row.endswith("|  |")] == []


def test_check_says_what_would_be_served(tiny_bundle, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "c.yaml"
    file.write_text(f"bundle: {tiny_bundle.path}\nstreams: [{{topic: 'a/+'}}]\n")
    result = CliRunner().invoke(config, ["check", str(file)])
    assert result.exit_code == 0
    assert "tiny" in result.output
    assert "a/+" in result.output


def test_check_asks_no_detector_where_there_is_none(tiny_bundle, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "c.yaml"
    drift = "discoveries: {}, false_alarms: {every: 1, per: second}"
    file.write_text(f"bundle: {tiny_bundle.path}\ndrift: {{{drift}}}\n")
    result = CliRunner().invoke(config, ["check", str(file)])
    assert result.exit_code == 0, result.output
