"""Outputs at URLs: in fsspec's memory, and in a server of S3 on this machine."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import put_clip, put_rows

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.dataset import stores
from reelscribe.dataset.places import place_of, url_of
from reelscribe.errors import DatasetError
from reelscribe.runners import on_demand
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.retry import retry
from reelscribe.runners.status import read_status

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state folder, and no waiting between tries."""
    monkeypatch.setenv("REELSCRIBE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(stores, "_PAUSES", (0.0, 0.0))
    return tmp_path / "state"


@pytest.fixture
def memory() -> Iterator[Any]:
    found = fsspec.filesystem("memory")
    yield found
    found.store.clear()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server of S3."""
    pytest.importorskip("s3fs")
    found = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    logging.getLogger("werkzeug").disabled = True
    yield "http://{}:{}".format(*found.get_host_and_port())
    found.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Its client; there is an empty bucket that is called bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    found = fsspec.filesystem("s3", use_listings_cache=False)
    if found.exists("bucket"):
        found.rm("bucket", recursive=True)
    found.mkdir("bucket")
    yield found
    type(found).clear_instance_cache()


def _data(folder: Path, rows: int = 3) -> Path:
    """Rows, the last of which has no file."""
    names = [put_clip(folder / f"{number}.mp4").name for number in range(rows - 1)]
    return put_rows(folder / "rows.jsonl", [{"video": name} for name in [*names, "gone.mp4"]])


def _run(data: Path, output: str, **settings: Any) -> RunSummary:
    return run(data, output, Settings(engine="fake", **settings))


def _refused(*words: str) -> str:
    """The one line that a command is refused with."""
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def test_a_run_writes_to_a_bucket_what_it_writes_to_a_disk_and_all_commands_work_on_it(
    tmp_path: Path, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data, url = _data(tmp_path), "s3://bucket/run/out.jsonl"
    _run(data, str(tmp_path / "out.jsonl"))
    caplog.set_level(logging.INFO, "reelscribe.dataset.stores")
    summary = _run(data, url)
    assert s3.cat_file("bucket/run/out.jsonl") == (tmp_path / "out.jsonl").read_bytes()
    assert s3.cat_file("bucket/run/out.failures.jsonl") == (tmp_path / "out.failures.jsonl").read_bytes()
    assert sorted(s3.ls("bucket/run")) == ["bucket/run/out.failures.jsonl", "bucket/run/out.jsonl"]
    assert summary.failures_file == "s3://bucket/run/out.failures.jsonl"
    ledger = place_of(url).with_name("out.ledger.sqlite")
    assert ledger.is_file()
    assert f"its ledger is {ledger}" in caplog.text
    assert not place_of(url).exists()

    told = CliRunner().invoke(main, ["status", url])
    assert (told.exit_code, "3 of 3 rows, 2 captions" in told.stdout) == (0, True)
    assert CliRunner().invoke(main, ["audit", url, "--json"]).exit_code == 0
    told = CliRunner().invoke(main, ["export", url, str(tmp_path / "table"), "--as", "table", "--form", "csv"])
    assert told.exit_code == 0, told.output
    assert retry(url).asked == 1
    put_clip(tmp_path / "gone.mp4")
    assert retry(url).captions == 3  # what was brought to be read is in nobody's way
    assert s3.ls("bucket/run") == ["bucket/run/out.jsonl"]


def test_shards_go_one_by_one_and_those_of_a_longer_run_are_removed(tmp_path: Path, memory: Any) -> None:
    url, seen = "memory://set/run", list[int]()
    settings: dict[str, Any] = {"output_format": "webdataset", "shard_rows": 1}

    def count(result: Any) -> None:
        seen.append(len(memory.find("/set/run")))

    run(_data(tmp_path, 4), url, Settings(engine="fake", **settings), on_row=count)
    assert seen == [0, 1, 2, 3]
    memory.pipe_file("/set/run/notes.txt", b"mine")
    _run(_data(tmp_path, 2), url, **settings)
    assert memory.find("/set/run") == ["/set/run/00000.tar", "/set/run/00001.tar", "/set/run/notes.txt"]
    told = CliRunner().invoke(main, ["audit", url])
    assert told.exit_code == 0, told.output


@pytest.mark.parametrize("output", ["memory://set/out.jsonl", "memory://set/out-{shard}.jsonl"])
def test_what_others_wrote_is_never_replaced(
    tmp_path: Path, state: Path, memory: Any, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, name = _data(tmp_path), output.removeprefix("memory:/").replace("{shard}", "00000")
    _run(data, output)
    monkeypatch.setenv("REELSCRIBE_STATE", str(tmp_path / "elsewhere"))
    told = r"no run on this machine uploaded it\. To go on .* copy all files in outputs/memory-set-"
    with monkeypatch.context() as patch:
        patch.setattr(on_demand, "load_engine", lambda settings: pytest.fail("loaded"))
        with pytest.raises(DatasetError, match=told):
            _run(data, output)
    shutil.copytree(state / "outputs", tmp_path / "elsewhere" / "outputs", dirs_exist_ok=True)
    assert _run(data, output).known == 3
    memory.pipe_file(name, b"theirs")
    with pytest.raises(DatasetError, match="somebody changed it since this machine uploaded it"):
        _run(data, output)
    assert memory.cat_file(name) == b"theirs"


def test_what_others_wrote_meanwhile_is_not_replaced(tmp_path: Path, memory: Any) -> None:
    url = "memory://set/out.parquet"
    pytest.importorskip("pyarrow")
    with pytest.raises(DatasetError, match=r"no run on this machine uploaded it.*The whole file is .*out\.parquet, "):
        run(
            *(_data(tmp_path), url, Settings(engine="fake")),
            on_row=lambda result: memory.pipe_file("/set/out.parquet", b"theirs"),
        )
    assert memory.cat_file("/set/out.parquet") == b"theirs"
    assert place_of(url).is_file()


def test_an_upload_that_fails_is_tried_again_and_then_told_and_the_file_stays(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, data, tries = "memory://set/out.jsonl", _data(tmp_path), list[str]()

    def fail(file: str, path: str, **_: Any) -> None:
        tries.append(path)
        raise ConnectionError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", lambda self, *given, **named: fail(*given, **named))
        with pytest.raises(DatasetError, match=r"cannot upload to .*: the line is cut\. The whole file is .*failures"):
            _run(data, url)
    assert len(tries) == 3
    assert memory.find("/set") == []
    assert read_status(place_of(url)).state == "broken off"
    assert _run(data, url).known == 3
    assert memory.find("/set") == ["/set/out.failures.jsonl", "/set/out.jsonl"]


def test_an_upload_whose_program_was_killed_right_behind_it_is_known(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, data = "memory://set/out.jsonl", _data(tmp_path)

    class Killed(BaseException):
        pass

    def put(self: Any, file: Path, url: str) -> None:
        memory.put_file(str(file), stores._path(memory, url))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stores.Uploads, "_put", put)
        with pytest.raises(Killed):
            _run(data, url)
    assert _run(data, url).known == 3


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://bucket", "it names no file in a bucket"),
        ("s3://bucket//a.jsonl", "it names no file in a bucket"),
        ("https://host/a.jsonl", "a web server takes no files"),
        ("simplecache::s3://bucket/a.jsonl", "a chain of URLs is read, not written"),
        ("s3://bucket/{shard}/a.jsonl", "not in a folder's"),
        ("nope://bucket/a.jsonl", "Protocol not known: nope"),
        ("memory://set/a", "its name says no format"),
        ("memory://set/a.mp4", "it is named as a video"),
        ("memory://set/rows.jsonl", "it is an input, too"),
    ],
)
def test_urls_that_cannot_be_written_are_told_before_a_model_is_loaded(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    monkeypatch.setattr(on_demand, "load_engine", lambda settings: pytest.fail("loaded"))
    memory.pipe_file("/set/rows.jsonl", b'{"video": "a.mp4"}\n')
    line = _refused("caption", "memory://set/rows.jsonl", "-o", url)
    assert line.startswith(f"reelscribe: cannot write to {url}: ")
    assert told in line


def test_buckets_keys_and_packages_that_are_not_there_are_told(
    tmp_path: Path, s3: Any, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(_data(tmp_path))
    monkeypatch.setattr(on_demand, "load_engine", lambda settings: pytest.fail("loaded"))
    told = {"s3://none/a.jsonl": "The specified bucket does not exist; make the bucket"}
    told["gs://bucket/a.jsonl"] = "install gcsfs"
    for url, why in told.items():
        line = _refused("caption", data, "-o", url)
        assert f"cannot write to {url}: " in line
        assert why in line
    monkeypatch.setattr(type(memory), "pipe_file", _denied)
    assert "Access Denied; the keys that" in _refused("caption", data, "-o", "memory://set/a.jsonl")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    type(s3).clear_instance_cache()
    assert "Unable to locate credentials; set them" in _refused("caption", data, "-o", "s3://bucket/a.jsonl")


def _denied(*_: Any, **__: Any) -> None:
    raise PermissionError("Access Denied")


def test_what_is_not_there_is_not_read_and_other_commands_write_to_disks(tmp_path: Path, memory: Any) -> None:
    assert "there is no memory://set/a.jsonl, and no run" in _refused("audit", "memory://set/a.jsonl")
    for command in ("status", "retry"):
        line = _refused(command, "memory://set/a.jsonl")
        assert "there is no ledger of memory://set/a.jsonl on this machine. To go on with a run of another" in line
    memory.pipe_file("/set/a.jsonl", b'{"video": "a.mp4", "caption": "A dog.", "caption_meta": "{}"}\n')
    for words in (["report", "memory://set/a.jsonl", "-o", "s3://b/a.html"], ["split", "a", "-o", "s3://b/a.jsonl"]):
        assert "only caption and merge write to URLs" in _refused(*words)
    told = CliRunner().invoke(main, ["audit", "memory://set/a.jsonl"])
    assert told.exit_code == 0, told.output
    memory.pipe_file("/set/a.jsonl", b'{"video": "b.mp4", "caption": "A cat.", "caption_meta": "{}"}\n' * 2)
    told = CliRunner().invoke(main, ["audit", "memory://set/a.jsonl"])
    assert "2 captions" in told.stdout
    memory.rm("/set/a.jsonl")
    assert _run(_data(tmp_path), "memory://set/a.jsonl").captions == 2  # the copy is in nobody's way


def test_urls_of_files_are_paths_and_videos_are_named_by_their_absolute_paths(tmp_path: Path, memory: Any) -> None:
    file = f"file://{tmp_path}/a.jsonl"
    assert (url_of(file), place_of(file)) == (None, tmp_path / "a.jsonl")
    with pytest.raises(DatasetError, match="a URL is given as a text"):
        place_of(Path("s3://bucket/a.jsonl"))
    video = put_clip(tmp_path / "clips" / "a.mp4")
    _run(video.parent, "memory://set/out.jsonl")
    assert f'"video":"{video}"'.encode() in memory.cat_file("/set/out.jsonl").replace(b'": "', b'":"')
