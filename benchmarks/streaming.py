"""Memory and start of long data sets: the same run over few and over many rows, from and to each format.

Every run is a process of its own, and goes through reading, planning, captioning with the fake engine, selection and
writing. Decoding is left out, or it would be all that there is to see: each request gets the same four black frames.
`--decode 1` decodes a tiny clip for each row instead (not for webdataset, whose rows hold no real video here). Memory
is VmHWM of the process; start is the time from its start until its first row is written.
"""

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMATS = {"jsonl": "{}.jsonl", "parquet": "{}.parquet", "hf": "{}", "webdataset": "{}.tar"}
MEMORY_BAR_BYTES, START_BAR_SECONDS = 300_000_000, 2.0


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Rows of about 250 bytes."""
    for number in range(count):
        yield {
            "id": number,
            "video": "clip.mp4",
            "text": f"row {number}: " + "a sheep looks at the camera " * 4,
            "source": {"url": f"https://example.org/{number}.mp4", "tags": ["sheep", str(number % 7), None]},
        }


def put(name: str, path: Path, count: int) -> None:
    """Write a data set of a format."""
    if name == "jsonl":
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows(count))
    elif name == "webdataset":
        with tarfile.open(path, "w") as tar:
            for row in rows(count):
                for suffix, data in {"mp4": b"video", "json": json.dumps(row).encode()}.items():
                    info = tarfile.TarInfo(f"{row['id']:09d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    else:
        put_arrow(name, path, count)


def put_arrow(name: str, path: Path, count: int) -> None:
    """Write Parquet, in row groups of 100,000 rows, or a Hugging Face data set, in batches of 1,000."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    step = min(count, 100_000 if name == "parquet" else 1000)
    source, held = rows(count), []
    schema = pa.Table.from_pylist(list(rows(1))).schema
    if name == "hf":
        path.mkdir()
        (path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
        (path / "dataset_info.json").write_text("{}")
    writer: Any = (
        pq.ParquetWriter(path, schema)
        if name == "parquet"
        else pa.ipc.new_stream(pa.OSFile(str(path / "data.arrow"), "wb"), schema)
    )
    with writer:
        for row in source:
            held.append(row)
            if len(held) == step:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held = []


def run_one(source: str, output: str, decode: str, began: str) -> None:
    """In a process of its own: one run; prints what it took."""
    import numpy as np
    from memory import peak_memory_bytes

    from reelscribe import Settings, pipeline, run
    from reelscribe.config.groups import OutputFormat
    from reelscribe.values import Frames

    if decode == "0":
        black = Frames(
            pixels=np.zeros((4, 32, 32, 3), np.uint8), timestamps=(0, 1, 2, 3), duration_seconds=4.0, video_tokens=2
        )
        pipeline.decode_ahead = lambda works, *_, **__: ((work, black) for work in works)  # type: ignore[attr-defined]
    first: list[float] = []

    def on_row(_: Any) -> None:
        if not first:
            first.append(time.time())

    format_: OutputFormat = "auto" if Path(output).suffix else "hf"
    summary = run([source], Path(output), Settings(engine="fake", output_format=format_), on_row=on_row)
    took = time.time() - float(began)
    told = {
        "rows": summary.rows,
        "captions": summary.captions,
        "peak_bytes": peak_memory_bytes(),
        "seconds": round(took, 2),
    }
    print(json.dumps(told | {"start_seconds": round(first[0] - float(began), 2)}))


def measure(source: Path, output: Path, decode: int) -> dict[str, Any]:
    """Run in a process of its own. (What getrusage tells of it would hold the memory of this one as well.)"""
    command = [sys.executable, __file__, "--one", str(source), str(output), str(decode), str(time.time())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def main() -> None:
    import numpy as np
    from common import arguments, save_result, workspace

    from reelscribe.demo import write_clip
    from reelscribe.models.shapes.scenes import random_scene

    args = arguments(__doc__, few=1000, many=1_000_000, decode=0, formats=",".join(FORMATS))
    results: dict[str, Any] = {}
    for name in args.formats.split(","):
        with workspace() as folder:
            scene = random_scene(np.random.default_rng(1))
            write_clip(folder / "clip.mp4", scene, width=64, height=48, fps=8, seconds=1)
            told = {}
            for label in ("few", "many"):
                source = folder / FORMATS[name].format(label)
                put(name, source, getattr(args, label))
                told[label] = measure(source, folder / FORMATS[name].format(f"out-{label}"), args.decode)
                assert told[label]["captions"] == getattr(args, label), told
            growth = told["many"]["peak_bytes"] - told["few"]["peak_bytes"]
            within = growth <= MEMORY_BAR_BYTES and told["many"]["start_seconds"] <= START_BAR_SECONDS
            results[name] = {**told, "growth_bytes": growth, "within_bars": within}
            print(name, json.dumps(results[name]), file=sys.stderr)
    bars = {"growth_bytes": MEMORY_BAR_BYTES, "start_seconds": START_BAR_SECONDS}
    save_result("streaming", {"settings": vars(args), "bars": bars, "results": results})


if __name__ == "__main__":
    run_one(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main()
