"""Content keys, under which the ledger stores outcomes: hashes of everything that a caption depends on."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from reelscribe.config import PARAMS_WITHOUT_EFFECT, SETTINGS_BY_EFFECT, Effect, Settings
from reelscribe.engines.base import ModelInfo
from reelscribe.errors import ClipError
from reelscribe.models import model_path
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Clip, Request
from reelscribe.video.fetch import FetchLimits, local, scheme_of
from reelscribe.video.scenes import SCENES_VERSION

_VERSION: Final = 2
"""Part of every key. Raise it when a change of the code makes the same request give another caption."""
_FIRST: Final = frozenset(
    {
        *("model", "revision", "engine", "fps", "min_frames", "max_frames", "max_video_tokens", "dtype"),
        *("send", "model_params"),
    }
)
"""Settings that have been part of every key since release 0.1.0. Newer ones are part only if not at their defaults."""
_SAMPLE_BYTES: Final = 1 << 16
"""Bytes in each sample of a model's file; see `weights_of`."""


class Keys:
    """Makes content keys.

    Args:
        settings: settings of the run.
        info: the engine and model that are running.
        weights: identity of the model's weights, if an earlier run recorded it; None to compute it from the files.
    """

    def __init__(self, settings: Settings, info: ModelInfo, *, weights: str | None = None) -> None:
        self.settings = settings
        self._limits = FetchLimits.of(settings)
        self.weights = weights or weights_of(info.model)
        """Identity of the model's files; None unless the model is in a folder."""
        self._captions = _running(settings, info, self.weights)
        self._of_tasks = {
            task.name: _running(settings.of_task(task), other, weights_of(other.model))
            for task in settings.all_tasks
            if (other := info.others.get(task.name))
        }
        self.failure_settings_hash = _digest(told(settings, "failures")).hex()
        """Hash of the settings that decide whether a video fails, such as time limits. If they change, failures are
        tried again."""

    def key(self, request: Request, video: tuple[Any, ...]) -> bytes:
        """The content key of a request for a video: 20 bytes. It does not depend on the row's text."""
        return _digest(
            self._of_tasks.get(request.id.task, self._captions),
            video,
            request.prompt,
            request.system_prompt,
            request.num_captions,
            _sampling_told(request.sampling),
            request.seed,
            *_that_came_later(request),
            length=20,
        )

    def key_of_0_1(self, request: Request, video: tuple[Any, ...]) -> bytes:
        """The key of the same request in release 0.1.0: 16 bytes, which depend on the row's text as well.

        A request that release 0.1.0 could not make gets a key that no request had there.
        """
        return _digest(
            self._captions,
            video,
            request.prompt,
            request.system_prompt,
            request.reference,
            request.num_captions,
            _sampling_told(request.sampling),
            seed_of_0_1(request, self.settings),
            *_that_came_later(request),
        )

    def video(self, clip: Clip) -> tuple[Any, ...]:
        """Identity of a clip; see `clip_identity`."""
        return clip_identity(clip, self._limits)


def clip_identity(clip: Clip, limits: FetchLimits) -> tuple[Any, ...]:
    """Identity of a clip: path, size and modification time of its file; its URL; or the hash of its bytes.

    A missing file has a distinct identity, so that a file which appears later counts as another video. The identity of
    a stretch also has its times.
    """
    stretch = () if clip.is_whole else (clip.start_seconds, clip.end_seconds)
    return *_file_identity(clip, limits), *stretch


def _file_identity(clip: Clip, limits: FetchLimits) -> tuple[Any, ...]:
    if isinstance(clip.source, bytes):
        hashed = _hash_of(clip.source) if clip.is_whole else _hash_of_film(clip.source)
        return ("bytes", len(clip.source), hashed)
    if scheme_of(clip.source) not in (None, "file"):
        return ("url", clip.source)
    try:
        # os.path instead of pathlib: this runs for each row, pathlib takes three times as long, and it keeps "..".
        path = os.path.abspath(os.path.join(clip.root or "", _source_of(clip, limits)))  # noqa: PTH100, PTH118
        stat = os.stat(path)  # noqa: PTH116
    except ClipError as exc:
        return (exc.kind, clip.source)
    except OSError as exc:  # also if the disk is gone
        return ("missing", clip.source, str(clip.root), exc.errno)
    except ValueError:  # a NUL or half a surrogate pair: no file can have this name
        return ("missing", clip.source)
    return ("file", path, stat.st_size, stat.st_mtime_ns)


def _source_of(clip: Clip, limits: FetchLimits) -> str:
    """The path of a clip that is a local file, as its row has it; see `local`."""
    source = local(clip, limits).source
    assert isinstance(source, str)
    return source


@functools.lru_cache(maxsize=64)
def _sampling_told(sampling: SamplingParams) -> dict[str, Any]:
    """Sampling parameters, ready for JSON. Cached, since all requests of a task share them."""
    return sampling.told()


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


_hash_of_film = functools.lru_cache(maxsize=1)(_hash_of)
"""Hash of a film's bytes, cached for the last film, since its stretches follow each other. The cache keeps the bytes in
memory until the next film."""


def scenes_key(film: Clip, limits: FetchLimits) -> bytes:
    """The key under which the scenes of a film are stored: 20 bytes."""
    return _digest("scenes", SCENES_VERSION, clip_identity(film, limits), length=20)


def _that_came_later(request: Request) -> list[Any]:
    """Properties of a request that earlier releases did not have; empty if they all have their defaults, so that the
    key stays the same.
    """
    schema = request.schema.text if request.schema else None
    unfilled = [[type(part).__name__, str(part)] for part in request.unfilled]
    told = [schema, request.video, unfilled, *(["verifies"] if request.verifies else [])]
    return [] if told == [None, True, []] else told


def seed_of_0_1(request: Request, settings: Settings) -> int:
    """The seed of the same request in release 0.1.0: 64 bits, which depend on the row's text as well."""
    root = settings.seed if request.sampling.seed is None else request.sampling.seed
    slot = str(request.id.slot)
    digest = hashlib.sha256()
    asked = (request.prompt, request.system_prompt or "", request.reference)
    for part in (str(root), request.clip.source, *asked, slot):
        content = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return int.from_bytes(digest.digest()[:8], "big")


def told(settings: Settings, *effects: Effect) -> dict[str, Any]:
    """The settings with these effects, ready for JSON."""
    names = [name for effect in effects for name in SETTINGS_BY_EFFECT[effect]]
    values = {name: getattr(settings, name) for name in names}
    if "sampling" in values:
        values["sampling"] = settings.sampling_params().told()
    if "model_params" in values:
        # Release 0.1.0 had no extra_body, and sent model_params to servers. Merging the two keeps its captions valid.
        params: Mapping[str, Any] = {**values["model_params"], **values.pop("extra_body")}
        values["model_params"] = {name: params[name] for name in params if name not in PARAMS_WITHOUT_EFFECT}
    loaded: dict[str, Any] = json.loads(_to_json(values))
    return loaded


def work_of(settings: Settings, weights: str | None, commit: str | None) -> dict[str, Any]:
    """Everything in a run that captions depend on, ready for JSON. Comparing it shows what changed between runs."""
    return {**told(settings, "rows", "captions"), "weights": weights, "commit": commit}


def _running(settings: Settings, info: ModelInfo, weights: str | None) -> bytes:
    """Hash of the engine, the model, its files, and the settings that answers depend on."""
    running = (info.engine, info.model, info.revision, weights)
    return _digest(_VERSION, running, _that_matter(told(settings, "captions")))


def _that_matter(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that are part of a key: those of release 0.1.0, and newer ones that differ from their defaults."""
    defaults = told(Settings(), "captions")
    return {name: value for name, value in values.items() if name in _FIRST or value != defaults[name]}


def weights_of(model: str) -> str | None:
    """Identity of a model in a folder: a hash of samples of its files, as hex. None if the model is not in a folder.

    It changes if another model takes the folder's place. Of each file it covers the name, the size and four samples.
    """
    folder = Path(model_path(model))
    if not (folder / "config.json").is_file():
        return None
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja") and file.is_file():
            size = file.stat().st_size
            digest.update(f"{file.name}\0{size}\0".encode())
            with file.open("rb") as opened:
                for start in (0, size // 3, 2 * size // 3, size - _SAMPLE_BYTES):
                    opened.seek(max(start, 0))
                    digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _digest(*parts: Any, length: int = 16) -> bytes:
    return hashlib.sha256(_to_json(parts).encode()).digest()[:length]


def _to_json(value: Any) -> str:
    return _ENCODER.encode(value)


_ENCODER: Final = json.JSONEncoder(
    sort_keys=True, default=lambda odd: odd.hex() if isinstance(odd, bytes) else str(odd)
)
"""One encoder for all keys, since `json.dumps` with such options would create one for each call."""
