"""Values that no video can have, and names that files can have: each costs its own row of a run, and nothing else."""

import io
import json
import os
import random
import socket
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, put_clip

from reelscribe.config import Settings
from reelscribe.engines.fake import FakeEngine
from reelscribe.runners.local import run
from reelscribe.values import RowResult, Work

GOOD = "good.mp4"
GOOD_EVERY = 5
"""Rows from one good one to the next."""

# fmt: off
TEXTS = (
    *("clip.mp4", "a/b/../clip.mp4", "/dev/zero", "/dev/stdin", "/proc/self/mem", "~/clip.mp4", "$HOME/clip.mp4", "."),
    *("C:\\clips\\a.mp4", "\\\\server\\share\\a.mp4", "CON", "nul.mp4", "a:b.mp4", "clip.mp4:stream", "clip.mp4 "),
    *("file:///tmp/a.mp4", "file://localhost/a.mp4", "file:/a.mp4", "file:a.mp4", "file://[::1]/a.mp4", "file://[bad/a"),
    *("FILE:///a%00b.mp4", "file:///%ff%fe.mp4", "file://%5B/", "file:////a", "file://localhost:99x/a", "file:"),
    *("http://8.8.8.8/a.mp4", "https://example.test/a b.mp4?x=ü", "http://user:pa@ss@[x/", "http://[::1]:80/a"),
    *("http://0x7f.1:1/", "http://2130706433/", "http://\uff11\uff12\uff17.0.0.1/", "http://localhost:99999/"),
    *("http://xn--/", "http://a..b/", "https://[", "http://%00/", "http://8.8.8.8\r\nX: y/", "HTTP://EXAMPLE.TEST:80/"),
    *("http://127.0.0.1:1/a", "http:///a", "s3://bucket/a.mp4", "s3://", "gs://[", "hf://datasets/x", "az://c@a/b"),
    *("oss://", "zip://a.mp4::http://x/z.zip", "simplecache::s3://b/a", "::://", "a::http://x", "ftp://x/a"),
    *("data:video/mp4;base64,AAAA", "javascript:alert(1)", "concat:a.mp4|b.mp4", "pipe:0", "fd:0", "rtsp://x/a"),
    *("subfile,,start,0,end,9,,:clip.mp4", "tcp://127.0.0.1:1", "udp://x", "crypto:clip.mp4", "async:cache:clip.mp4"),
    *("lavfi:testsrc", "-i clip.mp4", "--help", "| ls", "$(ls)", "`ls`", "a\nb.mp4", "clip%04d.mp4", "clip*.mp4"),
    *("{shard}.mp4", "<__dj__video>", "<|__dj__eoc|>", "\u202egpj.4pm", "\ufeffclip.mp4", "\x1b[31m"),
)
PARTS = (
    *("\x00", "\n", "\r\n", "\t", "\x1b]0;x\x07", "\x7f", "\x85", "\u2028", "\ud800", "\udce9", "\udfff", "\U0001f3ac"),
    *("é", "//", "..", "::", "://", "%", "%00", "%ff", "%2e%2e", "@", ":", "[", "]", "?", "#", "\\", "|", "'", '"'),
    *("<", "{", "file://", "http://", "HTTP://", "::file:///", "user:pw@", ".mp4", ".tar", ".gz", "a" * 300, "/" * 300),
    "x" * 70_000,
)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 1e308, 10**30, -(10**400), float("nan"), float("inf"), "", " ", [], {}, [[]]),
    *([None], [""], [1, 2], [[GOOD]], [GOOD, None], {"path": None}, {"bytes": None}, {"bytes": "AAAA", "path": 5}),
    *({"path": "\ud800"}, {"url": "http://["}, {"path": GOOD, "bytes": None, "more": 1}, {"a": {"b": {"c": []}}}),
    [{"path": "x"}] * 50, ["x"] * 2000, {str(number): number for number in range(300)},
)
# fmt: on


def odd_text(rng: random.Random) -> str:
    """A URL or path, changed in a few places."""
    text = rng.choice(TEXTS)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        at = rng.randrange(len(text) + 1)
        until = min(len(text), at + rng.randrange(6))
        change = rng.randrange(6)
        if change == 0:
            text = text[:at] + rng.choice(PARTS) + text[at:]
        elif change == 1:
            text = text[:at] + text[until:]
        elif change == 2:
            text = text[:until] + text[at:]
        elif change == 3:
            text = text[:at] + text[at:until].swapcase() + text[until:]
        elif change == 4:
            text = (
                text[:at]
                + "".join(chr(rng.choice([rng.randrange(32), rng.randrange(0x300), rng.randrange(0x11_0000)])))
                + text[until:]
            )
        else:
            text = (
                text[:at] + "".join(f"%{byte:02x}" for byte in text[at:until].encode("utf-8", "replace")) + text[until:]
            )
    return text


def odd_value(rng: random.Random) -> Any:
    """What may stand in a column of videos."""
    kind = rng.randrange(10)
    if kind < 7:
        return odd_text(rng)
    if kind == 7:
        return rng.choice(OTHERS)
    if kind == 8:
        return [odd_text(rng) if rng.random() < 0.8 else rng.choice(OTHERS) for _ in range(rng.randrange(1, 4))]
    return {rng.choice(["path", "bytes", "url", "\x00", "é"]): odd_text(rng) for _ in range(rng.randrange(1, 3))}


def odd_bytes(rng: random.Random, good: bytes) -> bytes:
    """What may stand in a column of videos as bytes."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.choice([0, 1, 16, 5000]))
    if kind == 1:
        return good[: rng.randrange(len(good))]
    if kind == 2:
        return odd_text(rng).encode("utf-8", "surrogatepass")
    if kind == 3:
        return b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n" + odd_text(rng).encode("utf-8", "replace") + b"\n"
    return b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n" + odd_text(rng).encode("utf-8", "replace")


@contextmanager
def without_network() -> Iterator[set[str]]:
    """No name is resolved, and nothing is connected to but this machine; gives what was tried."""
    tried: set[str] = set()
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def resolved(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return resolve(host, port, *rest, **more | {"flags": socket.AI_NUMERICHOST})

    def connected(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(("127.", "::1")):
            tried.add(str(address[0]))
            raise ConnectionRefusedError(111, "Connection refused")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolved)
        patch.setattr(socket.socket, "connect", connected)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # where s3fs looks for keys if it has none
        yield tried


def _checksum(prepared: Work, _: int) -> str:
    """A caption that says whose it is, and of which pictures."""
    return f"{prepared.requests[0].clip.name} {zlib.crc32(prepared.frames.pixels.tobytes())}"


def _is_right(result: RowResult, said: set[str]) -> bool:
    """Whether a good row has its caption, of the pictures that all good rows show; `said` is of rows before."""
    if len(result.captions) != 1 or result.failures:
        return False
    (text,) = result.captions[0].texts
    name, _, pictures = text.rpartition(" ")
    said.add(pictures)
    videos = result.origin.row.get("video", result.origin.row.get("videos")) if result.origin else None
    return len(said) == 1 and (isinstance(videos, bytes) or name in videos if videos else True)


def check(results: list[RowResult], is_good: Callable[[int], bool]) -> Counter[str]:
    """See that all good rows have their captions; count the outcomes of the others, by kind."""
    kinds: Counter[str] = Counter()
    said: set[str] = set()
    for number, result in enumerate(results):
        assert result.index == number
        if is_good(number):
            assert _is_right(result, said), (number, result.captions, result.failures)
        else:
            kinds.update(failure.kind for failure in result.failures)
            kinds["captions"] += len(result.captions)
            kinds["none"] += not result.outcomes
        for failure in result.failures:
            json.dumps([failure.video, failure.message]).encode()
    return kinds


def fuzz_values(
    folder: Path, *, count: int, seed: int = 0, output: str = "out.jsonl", in_text: bool = False, **settings: Any
) -> Counter[str]:
    """Caption rows with odd values, and good ones between them; with `in_text` in the layout with tokens in the text.

    Returns:
        How many odd rows came to what: failures by kind, captions (some odd names lead to the clip), none (no video).

    Raises:
        AssertionError: a good row suffered, or an odd one is not accounted for.
    """
    put_clip(folder / GOOD)
    rng = random.Random(seed)
    values = [GOOD if number % GOOD_EVERY == 0 else odd_value(rng) for number in range(count)]
    rows = folder / "in.jsonl"
    with rows.open("w", encoding="ascii") as opened:
        for number, value in enumerate(values):
            videos = value if isinstance(value, list) and number % 3 else [value]
            row = {"text": f"{VIDEO} what {EOC}" * len(videos), "videos": videos} if in_text else {"video": value}
            opened.write(json.dumps({"id": number, **row}) + "\n")
    return _run(rows, folder / output, lambda number: number % GOOD_EVERY == 0, count, **settings)


def fuzz_bytes(folder: Path, *, count: int, seed: int = 0, output: str = "out.parquet") -> Counter[str]:
    """The same with bytes, out of Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = put_clip(folder / GOOD).read_bytes()
    rng = random.Random(seed)
    values = [good if number % GOOD_EVERY == 0 else odd_bytes(rng, good) for number in range(count)]
    pq.write_table(pa.table({"id": range(count), "video": pa.array(values, pa.binary())}), folder / "in.parquet")
    return _run(folder / "in.parquet", folder / output, lambda number: number % GOOD_EVERY == 0, count)


def fuzz_names(folder: Path, *, count: int, seed: int = 0, output: str = "out.jsonl", **settings: Any) -> int:
    """Caption a folder of clips whose names are as odd as the system lets them be; all of them are good.

    Returns:
        How many there are.
    """
    rng = random.Random(seed)
    videos, made = folder / "videos", 0
    good = put_clip(folder / GOOD).read_bytes()
    videos.mkdir()
    for name in odd_names(rng, count):
        try:
            file = os.fsencode(videos) + b"/" + name
            with open(file, "xb") as opened:  # noqa: PTH123 - by its bytes
                opened.write(good)
            made += 1
        except (OSError, ValueError):  # this system has no such name, or has it already
            continue
    _run(videos, folder / output, lambda _: True, made, **settings)
    return made


def odd_names(rng: random.Random, count: int, *, long: bool = True) -> Iterator[bytes]:
    """Names of files, as bytes; with `long` also the longest that there can be."""
    if long:
        yield from (b"x" * (size - 4) + b".mp4" for size in (200, 240, 244, 250, 251, 252, 253, 254, 255))
        yield "字".encode() * 80 + b".mp4"
    for _ in range(count):
        stem = odd_text(rng).encode("utf-8", "surrogatepass").replace(b"/", b"_")[:251]
        if rng.random() < 0.2:
            stem = rng.randbytes(rng.randrange(1, 200)).replace(b"/", b"").replace(b"\0", b"")
        yield (stem or b"x") + b".mp4"


def fuzz_members(folder: Path, *, count: int, seed: int = 0, output: str = "out.jsonl") -> Counter[str]:
    """Caption a tar file whose members have odd names, and good ones between them."""
    good = put_clip(folder / GOOD).read_bytes()
    rng = random.Random(seed)
    with tarfile.open(folder / "in.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(count):
            is_good = number % GOOD_EVERY == 0
            name = (
                f"good{number}.mp4"
                if is_good
                else os.fsdecode(next(odd_names(rng, 1, long=False)).removesuffix(rng.choice([b"", b".mp4"])))
                + rng.choice(["", ".json", "/"])
            )
            data = good if is_good or rng.random() < 0.5 else odd_bytes(rng, good)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    results: list[RowResult] = []
    with without_network():
        run([folder / "in.tar"], folder / output, _settings(), on_row=results.append)
    kinds: Counter[str] = Counter()
    for result in results:
        kinds.update(failure.kind for failure in result.failures)
        kinds["captions"] += len(result.captions)
    keys = {result.origin.row.get("__key__") for result in results if result.origin and result.captions}
    missing = {f"good{number}" for number in range(0, count, GOOD_EVERY)} - keys
    assert not missing, sorted(missing)
    return kinds


def _settings(**settings: Any) -> Settings:
    values: dict[str, Any] = {"engine": "fake", "model": "fake", "decoders": 0, "download_seconds": 5.0}
    return Settings(**values | settings)


def _run(source: Path, output: Path, is_good: Callable[[int], bool], count: int, **settings: Any) -> Counter[str]:
    results: list[RowResult] = []
    with without_network() as tried:
        engine = FakeEngine(_checksum)
        summary = run([source], output, _settings(**settings), on_row=results.append, engine=engine)
    assert summary.rows == len(results) == count
    assert not {address for address in tried if address.startswith(("10.", "192.168.", "169.254."))}
    return check(results, is_good)
