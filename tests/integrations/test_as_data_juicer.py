"""The distribution that stands in for Data-Juicer, built as a wheel and installed in an environment of its own."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import reelscribe

IMPORT = "from data_juicer.ops.mapper.video_captioning_from_vlm_mapper import VideoCaptioningFromVLMMapper as Operator"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
LOCAL = ["--no-deps", "--no-index"]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling builds it")


@pytest.fixture
def python(tmp_path: Path, packages: Path) -> Path:
    """The interpreter of an environment with the wheel, this package, and what this package needs; nothing else."""
    source, environment = packages / "reelscribe-as-data-juicer", tmp_path / "environment"
    subprocess.run([*PIP, "wheel", *LOCAL, "--no-build-isolation", "--wheel-dir", tmp_path, source], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    [wheel], [site] = tmp_path.glob("*.whl"), environment.glob("lib/python*/site-packages")
    interpreter = environment / "bin" / "python"
    for name in ("av", "click", "numpy"):
        for entry in _top_level(name):
            (site / entry.name).symlink_to(entry)
    (site / "this.pth").write_text(str(Path(reelscribe.__file__).parents[1]), "utf-8")
    subprocess.run([*PIP, "--python", interpreter, "install", *LOCAL, wheel], check=True)
    return interpreter


def _top_level(distribution: str) -> Iterator[Path]:
    """What a distribution has in site-packages."""
    files = importlib.metadata.files(distribution) or []
    for name in {file.parts[0] for file in files} - {".."}:
        yield Path(str(importlib.metadata.distribution(distribution).locate_file(name)))


def _run(interpreter: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([interpreter, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_import_path_of_data_juicer_leads_here(python: Path) -> None:
    done = _run(python, f"{IMPORT}\nprint(Operator.__module__, Operator(caption_num=2).memory)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reelscribe.operators.video_captioning_from_vlm_mapper", "70GB"]


@pytest.mark.data_juicer
def test_beside_the_real_one_it_refuses_and_harms_nothing(python: Path) -> None:
    [site] = python.parents[1].glob("lib/python*/site-packages")
    theirs = {entry.name: entry for entry in _top_level("py-data-juicer")}
    real = theirs.pop("data_juicer")
    for source in real.rglob("*.py"):  # beside ours, as pip would install it
        target = site / "data_juicer" / source.relative_to(real)
        assert not target.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    for entry in theirs.values():
        (site / entry.name).symlink_to(entry)
    (site / "those.pth").write_text(sysconfig.get_paths()["purelib"], "utf-8")
    done = _run(python, IMPORT)
    assert done.returncode == 1
    version = importlib.metadata.version("py-data-juicer")
    words = (
        f"ImportError: reelscribe-as-data-juicer stands in for Data-Juicer, but py-data-juicer {version} is installed"
    )
    assert words in done.stderr
    subprocess.run([*PIP, "--python", python, "uninstall", "--yes", "reelscribe-as-data-juicer"], check=True)
    done = _run(python, f"{IMPORT}\nprint(Operator.__module__)")
    assert done.stdout.strip() == "data_juicer.ops.mapper.video_captioning_from_vlm_mapper", done.stderr
