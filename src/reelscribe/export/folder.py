"""The folder of an export: new, empty, or begun by the same command. Files get their names when they are complete."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from reelscribe.dataset.files import sync, sync_folder, write_whole
from reelscribe.dataset.lock import locked
from reelscribe.errors import DatasetError

OWN: Final = ".reelscribe-export"
"""Name of the subfolder that holds the record of the export and, while it runs, incomplete files."""


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn OSError into a DatasetError that says which file cannot be written."""
    try:
        yield
    except OSError as exc:
        raise DatasetError(f"cannot write to {file}: {exc.strerror or exc}.") from exc


class ExportFolder:
    """Files of an export.

    Args:
        path: the folder. It is created when needed.
        command: the options of the export, as JSON values. Only the same command can continue a folder.

    Raises:
        DatasetError: the folder holds other files, or an export by another command.
    """

    def __init__(self, path: Path, command: Mapping[str, Any]) -> None:
        self.path = path
        self._own = path / OWN
        self._command = json.loads(json.dumps(command))
        record = self._read()
        self.failed: frozenset[int] = frozenset(record.get("failed", ()))
        """Numbers of the samples that the last run of the same command could not write."""
        self._lists: dict[str, list[str]] = record.get("lists", {})
        """SHA-256 of each version of a list that was written, by its name."""

    def _read(self) -> dict[str, Any]:
        """Read the record of an earlier export into this folder; empty if there is none."""
        if not os.path.lexists(self.path):
            return {}
        if not self.path.is_dir():
            raise DatasetError(f"cannot write to {self.path}: it is no folder; name a new one.")
        try:
            record: dict[str, Any] = json.loads((self._own / "record.json").read_bytes())
        except (OSError, ValueError) as exc:
            with writing(self.path):
                others = sorted(item.name for item in self.path.iterdir() if item.name != OWN)
            if others:
                raise DatasetError(
                    f"cannot write to {self.path}: something else is there already ({', '.join(others[:3])}, ...); "
                    "name a new folder, or an empty one."
                ) from exc
            return {}
        before = record.get("command")
        if before != self._command:
            names = [*(before if isinstance(before, dict) else {}), *self._command]
            changed = [name for name in dict.fromkeys(names) if (before or {}).get(name) != self._command.get(name)]
            what = "the captions have changed" if changed == ["captions"] else f"{', '.join(changed)} differ"
            raise DatasetError(
                f"cannot write to {self.path}: it holds an export by another command ({what} since then); name a new "
                "folder, or remove this one."
            )
        return record

    @contextmanager
    def opened(self) -> Iterator[Self]:
        """Lock the folder for one export. Incomplete files are deleted at the end, unless the process is killed."""
        with writing(self.path):
            self._own.mkdir(parents=True, exist_ok=True)
        with locked(self._own / "lock", self.path):
            self._note(finished=False)
            try:
                yield self
            finally:
                shutil.rmtree(self._own / "partial", ignore_errors=True)

    def finish(self, failed: Collection[int], *, finished: bool) -> None:
        """Record which samples could not be written, and whether the export is complete."""
        self.failed = frozenset(failed)
        self._note(finished=finished)

    def _note(self, *, finished: bool) -> None:
        record = {"command": self._command, "finished": finished, "failed": sorted(self.failed), "lists": self._lists}
        with writing(self._own):
            write_whole(self._own / "record.json", json.dumps(record, indent=1))

    # Files

    def partial(self, name: str) -> Path:
        """Path to write a file to until it is complete."""
        path = self._own / "partial" / name.replace("/", "-")
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
        return path

    def has(self, name: str) -> bool:
        """Whether a file or link of this name exists."""
        return os.path.lexists(self.path / name)

    def put(self, name: str, make: Callable[[Path], object]) -> Path:
        """Make a file unless it exists. `make` writes a file, or makes a link, at the path that it is given."""
        file = self.path / name
        if not self.has(name):
            partial = self.partial(name)
            with writing(file):
                make(partial)
                file.parent.mkdir(parents=True, exist_ok=True)
                if not partial.is_symlink():
                    with partial.open("rb") as opened:  # else an empty file may have the name after a power loss
                        os.fsync(opened.fileno())
                partial.rename(file)
        return file

    def put_text(self, name: str, text: str) -> None:
        """Write a text file.

        Raises:
            DatasetError: a file of this name exists with other content.
        """
        file, data = self.path / name, text.encode("utf-8", "backslashreplace")
        if not self.has(name):
            self.put(name, lambda partial: partial.write_bytes(data))
        elif file.read_bytes() != data:
            raise self._changed(file)

    def put_list(self, name: str, partial: Path) -> None:
        """Move a complete list of samples to its name. It replaces a list that an earlier run of this export wrote.

        Raises:
            DatasetError: somebody changed the list since then.
        """
        file, written = self.path / name, self._lists.setdefault(name, [])
        with writing(file):
            digest = _digest(partial)
            if self.has(name) and (before := _digest(file)) != digest and before not in written:
                raise self._changed(file)
            written.append(digest)
            self._note(finished=False)
            sync(partial)
            partial.replace(file)
            sync_folder(file.parent)

    def replace(self, name: str, partial: Path) -> None:
        """Move a complete file to its name. It replaces one that an earlier run of this export wrote."""
        with writing(self.path / name):
            sync(partial)
            partial.replace(self.path / name)
            sync_folder(self.path)

    def _changed(self, file: Path) -> DatasetError:
        return DatasetError(f"{file} is not as this export wrote it; move it away, and give the command again.")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
