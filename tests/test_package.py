"""The wheel holds just what it should and works without the checkout and without PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("adapters", "drift", "examples", "exporters", "runtime")

BLOCK_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git tracks: a build folder of the checkout must not get into it."""
    source = tmp_path_factory.mktemp("source")
    out = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if file.is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(file.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source],
        check=True,
        capture_output=True,
    )
    [built] = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    allowed = re.compile(
        r"trimtab/(adapters|drift|exporters(/methods|/steps|/steps/operators)?|runtime(/cli)?|examples(/watch)?)/[a-z_0-9]+\.py"
        r"|trimtab/(adapters|drift|exporters|runtime)/py\.typed"
        r"|trimtab/examples/watch/bundle/[a-z]+\.(onnx|npz|yaml)"
        r"|trimtab-[0-9.]+\.dist-info/(METADATA|WHEEL|RECORD|entry_points\.txt|top_level\.txt|licenses/LICENSE)"
    )
    assert [n for n in names if not allowed.fullmatch(n)] == []


def test_every_tracked_module_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", *(f"{p}/*.py" for p in PACKAGES)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert tracked
    assert [t for t in tracked if (ROOT / t).exists() and f"trimtab/{t}" not in names] == []


def test_it_works_in_a_clean_environment_without_torch(wheel: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    python = env / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    # The dependencies are those of this environment, without PyTorch and without the editable install's import hook.
    [site] = (env / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (site / "sitecustomize.py").write_text(BLOCK_TORCH)

    def run(*command: str | Path) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(site) in run(python, "-c", "import trimtab.runtime.pipeline as p; print(p.__file__)")
    assert run(env / "bin" / "trimtab", "--version").startswith("trimtab, version")
    help_text = run(env / "bin" / "trimtab", "--help")
    for command in ("export", "import", "run", "replay", "demo", "doctor"):
        assert re.search(rf"^  {command} ", help_text, re.M)
    modules = [
        "trimtab." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for p in ("runtime", "drift", "adapters")
        for name in sorted(str(f.relative_to(ROOT)) for f in (ROOT / p).rglob("*.py"))
    ]
    run(
        python,
        "-c",
        f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nassert 'torch' not in sys.modules",
    )
