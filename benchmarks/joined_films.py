"""Films joined of clips that the built-in model knows: split into scenes, captioned, and held to what they show.

Each film is 200 rendered clips of 2 to 12 seconds, of one size and frame rate, joined by hard cuts. The real command
splits it and asks two tasks, a caption and the events with their times, with the Transformers engine on the CPU. All
that is wrong is listed in the result. Seeds are others than those on which the model was trained and judged, and the
limits of `reelscribe.video.scenes` were chosen.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from common import arguments, save_result, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from flow import read_rows_of
from joining import CONFIG, SLACK_FRAMES, SLACK_SECONDS, hold, join

FILMS: Final = (((320, 240), 25), ((640, 360), 30), ((480, 480), 12), ((160, 120), 50))
"""Size and frame rate of the first film, the second and so on."""


def measure(folder: Path, *, clips: int, seed: int, size: tuple[int, int], fps: int, **seconds: Any) -> dict[str, Any]:
    """Make a film, run the command on it, and count."""
    folder.mkdir()
    joined = join(folder / "film.mp4", clips=clips, seed=seed, size=size, fps=fps, **seconds)
    (folder / "run.toml").write_text(CONFIG, "utf-8")
    command = [sys.executable, "-m", "reelscribe.cli", "caption", "film.mp4", "-o", "captions.jsonl"]
    began = time.perf_counter()
    subprocess.run([*command, "--config", "run.toml", "--device", "cpu"], cwd=folder, check=True)
    taken = time.perf_counter() - began
    counts = hold(read_rows_of(folder / "captions.jsonl"), joined, fps=fps)
    film_seconds = (joined[-1].first + joined[-1].count) / fps
    told = {"size": size, "fps": fps, "film_seconds": round(film_seconds, 2), "seconds": round(taken, 1)}
    return {**told, **counts.told()}


def main() -> None:
    args = arguments(__doc__, films=len(FILMS), clips=200, seed=701, shortest=2.0, longest=12.0)
    results = {}
    with workspace() as folder:
        for number, (size, fps) in enumerate(FILMS[: args.films]):
            seed = args.seed + number
            results[str(seed)] = measure(
                folder / str(seed),
                clips=args.clips,
                seed=seed,
                size=size,
                fps=fps,
                seconds=(args.shortest, args.longest),
            )
            print(seed, results[str(seed)], flush=True)
    slack = {"frames": SLACK_FRAMES, "seconds": SLACK_SECONDS}
    save_result("joined-films", {"settings": vars(args), "slack": slack, "results": results})


if __name__ == "__main__":
    main()
