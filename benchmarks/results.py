"""Keep the last run's figures: `python -m benchmarks.results` writes `RESULTS.md` from `benchmarks/out/*.json`."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.__main__ import NAMES
from benchmarks.report import OUT

FILE = Path(__file__).parent / "RESULTS.md"


def main() -> None:
    parts = [
        "# Results",
        "",
        "The last kept run of each benchmark: `make bench`, then `python -m benchmarks.results`. Times are medians of "
        "runs that took turns; only their ratios carry over to another machine.",
    ]
    for name in NAMES:
        files = sorted(OUT.glob(f"{name}.json")) + sorted(OUT.glob(f"{name}_*.json"))
        if files:
            parts += ["", f"## {name}", "", what(name)]
        for file in files:
            parts += section(json.loads(file.read_text(encoding="utf-8")))
    FILE.write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {FILE}")


def what(name: str) -> str:
    """The first paragraph of a benchmark's docstring."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def section(document: Mapping[str, Any]) -> list[str]:
    machine = document["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("processor", "cores", "system"))
    rows: Sequence[Mapping[str, Any]] = document["rows"]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        "",
        f"{document['date'][:10]}, {machine['processor']}, {machine['cores']} cores, {machine['system']}; {versions}",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(text(row.get(c, '')) for c in columns)} |" for row in rows),
    ]
    if document["facts"]:
        lines += ["", *(f"- {key}: {text(value)}" for key, value in document["facts"].items())]
    return lines


def text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


if __name__ == "__main__":
    main()
