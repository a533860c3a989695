"""Finds the data sets and videos that a user's inputs name: expands globs and folders, and detects formats."""

import glob
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reelscribe.dataset.files import VIDEO_SUFFIXES, check_regular, is_url, missing, needs_extra, without_suffix
from reelscribe.dataset.formats import first_suffixes, format_of, load_reader
from reelscribe.dataset.formats.videos import has_videos, left_out, walk
from reelscribe.dataset.names import is_beside
from reelscribe.errors import ClipError, DatasetError
from reelscribe.layouts import named_clip

logger = logging.getLogger(__name__)

_TYPED: Final = ("parquet", "hf")
"""Formats that state columns and their types before the first row."""
_AS_TABLE: Final = "pandas.{}(FILE).to_parquet('rows.parquet') makes one of it"
_UNPACKED: Final = "unpack it first; .jsonl, .json, .csv and .tsv may be compressed, as .gz or .zst"
_OTHERS: Final = (
    "avro db docx h5 hdf5 html lance log md npy npz pdf pickle pkl pt sqlite sqlite3 srt tfrecord toml vtt xml"
)
_NO_ROWS: Final[dict[str, str]] = {
    ".txt": """if it names a video in each line, jq -cR '{video: .}' FILE > rows.jsonl makes rows of it""",
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save it as CSV UTF-8, or " + _AS_TABLE.format("read_excel")),
    **dict.fromkeys((".arrow", ".feather"), _AS_TABLE.format("read_feather") + "; of save_to_disk name the folder"),
    ".orc": _AS_TABLE.format("read_orc"),
    **dict.fromkeys((".yaml", ".yml"), "yq -o=json FILE > rows.json makes an array of a list"),
    **dict.fromkeys((".zip", ".7z", ".rar", ".bz2", ".xz", ".gz", ".zst"), _UNPACKED),
    **dict.fromkeys(
        [f".{name}" for name in _OTHERS.split()],
        """write a line of JSON for each video, as {"video": "clip.mp4"}, into a file that ends in .jsonl""",
    ),
}
"""Advice by suffix, for files that are neither videos nor data sets in a known format."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One location to read rows from."""

    location: str
    """Path or URL."""
    format: str
    """A name in `FORMATS`."""


def find_sources(inputs: Sequence[str | Path]) -> list[Source]:
    """Find all sources that the inputs name, in order. Each is checked to exist and to be of its format.

    Args:
        inputs: paths, globs or URLs of data sets (`.jsonl`, `.json`, `.csv`, `.tsv`, each also with `.gz` or `.zst`,
            `.parquet`, `.tar`, or the folder of a Hugging Face data set), of folders of such files, of videos, or of
            folders of videos.

    Raises:
        DatasetError: an input does not exist, cannot be read, or holds no data set and no video.
        MissingExtraError: a format needs a package that is not installed.
    """
    return [source for named in _without_sidecars(list(map(str, inputs))) for source in _expand(named)]


def _without_sidecars(names: Sequence[str]) -> list[str]:
    """Paths without the sidecars of videos among them: these are read with their videos, not as inputs."""
    videos = {name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES}
    stems = videos | {without_suffix(Path(name)) for name in videos}
    kept = [
        name
        for name in names
        if Path(name).suffix.lower() not in (".txt", ".json") or without_suffix(Path(name)) not in stems
    ]
    if len(kept) < len(names):
        beside = next(name for name in names if name not in kept)
        told = "%d of the files that are named, as %s, lie beside a video, and are read with it, not as inputs."
        logger.warning(told, len(names) - len(kept), beside)
    return kept


def _expand(named: str) -> Iterator[Source]:
    if is_url(named):
        yield from (_source(url) for url in (_glob_urls(named) if "*" in named else [named]))
    elif glob.has_magic(named) and not Path(named).exists():
        names = sorted(glob.glob(named, recursive=True))  # noqa: PTH207 - pathlib's takes no absolute pattern
        if not names:
            raise DatasetError(f"nothing is called as {named!r}.")
        # A glob for shards may also match the files beside an output, such as its list of failures.
        for name in _without_sidecars([name for name in names if not is_beside(Path(name).name)] or names):
            yield from _of_path(Path(name))
    else:
        yield from _of_path(Path(named))


def _glob_urls(named: str) -> list[str]:
    with needs_extra(f"reading {named}"):
        import fsspec
    try:
        urls = [file.full_name for file in fsspec.open_files(named)]
    except Exception as exc:  # each client of an object store has its own exceptions
        raise DatasetError(f"cannot search {named}: {type(exc).__name__}: {exc}") from exc
    if not urls:
        raise DatasetError(f"nothing is called as {named!r}.")
    return sorted(url for url in urls if not is_beside(url.rpartition("/")[2])) or sorted(urls)


def _of_path(path: Path) -> Iterator[Source]:
    if not path.is_dir():
        yield _source(str(path))
    elif (path / "dataset_dict.json").is_file():
        raise DatasetError(f"{path} holds several splits ({_splits(path)}); name one of them, as {path}/train.")
    elif (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        yield _source(str(path), "hf")
    elif has_videos(path):
        if others := left_out(path):
            logger.warning(
                "Left out of %s: %s. A file that is named itself is read whatever it is called.", path, others
            )
        yield _source(str(path), "videos")
    else:
        yield from _shards(path)


def _splits(folder: Path) -> str:
    try:
        return ", ".join(json.loads((folder / "dataset_dict.json").read_bytes())["splits"])
    except (OSError, ValueError, KeyError, TypeError):
        return "see dataset_dict.json"


def _shards(folder: Path) -> Iterator[Source]:
    """The files of a data set in a folder, in the order of their names, without files that a run wrote beside them."""
    found = (path for path, problem in walk(folder) if problem is None and not is_beside(path.name))
    shards = [(path, name) for path in found if (name := format_of(path.name))]
    formats = sorted({name for _, name in shards})
    if not shards:
        videos = ", ".join(sorted(VIDEO_SUFFIXES))
        raise DatasetError(f"the folder {folder} holds no video ({videos}) and no data set ({first_suffixes()}).")
    if len(formats) > 1 and "json_array" in formats:  # a .json file beside data sets usually describes them
        left_out = [str(path) for path, name in shards if name == "json_array"]
        logger.warning("Left out beside data sets: %s; name .json files to have them read.", ", ".join(left_out))
        shards = [(path, name) for path, name in shards if name != "json_array"]
        formats.remove("json_array")
    if len(formats) > 1:
        raise DatasetError(f"the folder {folder} holds data sets of several formats ({', '.join(formats)}); name one.")
    yield from (_source(str(path), name) for path, name in shards)


def _source(location: str, name: str | None = None) -> Source:
    """The source at a location. Anything without the suffix of a data set is assumed to be a video."""
    file = location.partition("?")[0] if is_url(location) else location
    name = name or format_of(file) or "videos"
    if name == "videos":
        advice = _NO_ROWS.get(Path(file).suffix.lower())
        if advice and not Path(file).is_dir():
            raise DatasetError(f"cannot read {location}: data sets are {first_suffixes()} files; {advice}.")
        if not is_url(location) and not Path(_path_in(location)).exists():
            raise missing(location)
    elif name != "hf":
        check_regular(location)
    load_reader(name).check(location)
    return Source(location=location, format=name)


def _path_in(location: str) -> str:
    """The path of a video, without the stretch (`#t=...`) that may follow it."""
    try:
        return str(named_clip(location).source)
    except ClipError as exc:
        raise DatasetError(str(exc)) from exc


def arrow_schema(sources: Sequence[Source]) -> Any:
    """The Arrow schema of the rows of all sources; None if the format of any source states no types.

    Raises:
        DatasetError: sources have different types for a column.
    """
    found = schemas(sources)
    if not found:
        return None
    from reelscribe.dataset.formats.arrow import unify

    return unify(found)


def schemas(sources: Sequence[Source]) -> list[tuple[str, Any]]:
    """Location and Arrow schema of each source; empty if the format of any source states no types."""
    if any(source.format not in _TYPED for source in sources):
        return []
    return [(source.location, load_reader(source.format).schema(source.location)) for source in sources]  # type: ignore[attr-defined]
