"""Local paths of outputs: a path itself, or, for an output at a URL, a path in the state folder on this machine."""

import hashlib
import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from reelscribe.dataset.names import SHARD, beside, failures_of
from reelscribe.errors import DatasetError, without_passwords
from reelscribe.video.fetch import scheme_of

STATE: Final = "REELSCRIBE_STATE"
"""Environment variable that names the state folder."""


def place_of(output: str | Path) -> Path:
    """Local path of an output: a path is returned as it is; a URL has a path in the state folder.

    Outputs in the same folder of a store also share a local folder, as they would on a disk.

    Raises:
        DatasetError: nothing can be written to this URL.
    """
    url = url_of(output)
    if url is None:
        return _local_path(output)
    folder, _, name = without_passwords(url, "").rpartition("/")
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", folder)[:60].strip("-.")
    number = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return _state_folder() / "outputs" / f"{readable}-{number}" / name


def url_of(output: str | Path) -> str | None:
    """The URL of an output, without a trailing slash; None for a path, also one that is written as a `file:` URL.

    Raises:
        DatasetError: nothing can be written to this URL.
    """
    url = str(output).rstrip("/") if isinstance(output, str) else ""
    scheme = scheme_of(url)
    if scheme in (None, "file"):
        return None
    if "::" in url:
        raise DatasetError(f"cannot write to {url}: a chain of URLs is read, not written; name one of a store.")
    if scheme in ("http", "https"):
        raise DatasetError(f"cannot write to {url}: a web server takes no files; name a store, as s3://bucket/a.jsonl.")
    host, *names = url.partition("://")[2].split("/")
    if not names or "" in names or {".", ".."} & set(names):
        raise DatasetError(f"cannot write to {url}: it names no file in a bucket, as s3://bucket/captions.jsonl does.")
    if SHARD in "/".join([host, *names[:-1]]):
        raise DatasetError(f"cannot write to {url}: {SHARD} must be in the name of the file, not in a folder's.")
    return url


def place_of_run(output: str | Path) -> Path:
    """Local path of the output of an earlier run, beside which the run's ledger is.

    Raises:
        DatasetError: the output is at a URL, and no run on this machine wrote it.
    """
    place = place_of(output)
    if url_of(output) and not beside(place, "ledger.sqlite").is_file():
        raise DatasetError(f"there is no ledger of {output} on this machine. {how_to_copy(place)}")
    return place


def how_to_copy(place: Path) -> str:
    """Instructions for copying the ledger of another machine to this one."""
    folder = place.parent
    return (
        f"To go on with a run of another machine, copy all files in outputs/{folder.name} from that machine's state "
        f"folder ({STATE}, or else ~/.local/state/reelscribe) to {folder}: its ledger is there."
    )


def failures_at(output: str | Path) -> Path | str:
    """Path or URL of the list of failures of an output, without passwords, for messages."""
    url, file = url_of(output), failures_of(place_of(output))
    return file if url is None else without_passwords(f"{url.rpartition('/')[0]}/{file.name}")


def _local_path(output: str | Path) -> Path:
    if isinstance(output, str):
        return Path(url2pathname(urlsplit(output).path)) if scheme_of(output) == "file" else Path(output)
    first = output.parts[0] if output.parts else ""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", first) and not Path(first).exists():
        raise DatasetError(f"cannot write to {output}: a URL is given as a text, since a path loses a slash of it.")
    return output


def _state_folder() -> Path:
    if named := os.environ.get(STATE):
        return Path(named).absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "reelscribe"
