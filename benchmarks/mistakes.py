"""How many of the user's mistakes get their sentence: `python -m benchmarks.mistakes`.

The table is that of the tests (`tests/runtime/mistakes.py`): wrong configurations, bundles, payloads and recordings.
A case is good where trimtab answers it with the right error in one sentence of less than 300 characters that names the
file (or topic), the key, row or column, and the mend. That the daemon stays up under all wrong payloads is a test of
its own (`tests/runtime/test_mistakes.py`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks import report
from tests.runtime.conftest import make_tiny
from tests.runtime.mistakes import CASES, Verdict, judge

KINDS = {"config": "configurations", "bundle": "bundles", "payload": "payloads", "recording": "recordings"}
TARGET = 1.0
"""Share of the cases that must be good."""


@click.command()
@click.option("--show", is_flag=True, help="Print every sentence.")
def main(show: bool) -> None:
    """Try every mistake, print a table, write benchmarks/out/mistakes.json."""
    rows: list[dict[str, object]] = []
    failed: dict[str, list[str]] = {}
    lengths: list[int] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        bundle = make_tiny(root / "tiny").bundle
        for kind, words in KINDS.items():
            verdicts: dict[str, Verdict] = {}
            for case in CASES:
                if case.kind == kind:
                    folder = root / f"{kind}{len(verdicts)}"
                    folder.mkdir()
                    verdicts[case.name] = judge(case, folder, bundle)
            good = [v for v in verdicts.values() if not v.faults]
            lengths += [len(v.sentence) for v in good]
            failed |= {f"{kind}: {name}": v.faults for name, v in verdicts.items() if v.faults}
            rows.append({"wrong": words, "cases": len(verdicts), "good sentences": len(good)})
            if show:
                for name, verdict in verdicts.items():
                    click.echo(f"{kind}: {name}\n    {verdict.sentence}")
    cases, good_ones = (sum(int(str(row[key])) for row in rows) for key in ("cases", "good sentences"))
    rows.append({"wrong": "all", "cases": cases, "good sentences": good_ones})
    report.write(
        "mistakes", rows, share=good_ones / cases, target=TARGET, longest=max(lengths, default=0), failed=failed
    )


if __name__ == "__main__":
    main()
