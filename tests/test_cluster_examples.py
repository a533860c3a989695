"""The examples for clusters, which are not run: that they can be read, and that the command takes their words."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from documents import parse

EXAMPLES = Path(__file__).parents[1] / "examples" / "cluster"


def test_the_job_for_kuberay_is_yaml_and_its_command_is_valid() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((EXAMPLES / "rayjob.yaml").read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "reelscribe"
    given, settings = parse(words)
    assert given["inputs"]
    assert settings
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (settings.runner, settings.actor_range()) == ("ray", (8, 8 * workers["maxReplicas"]))


def test_the_script_for_slurm_is_bash_and_its_commands_are_valid() -> None:
    file = EXAMPLES / "slurm_shards.sh"
    subprocess.run(["bash", "-n", file], check=True)
    text = file.read_text("utf-8").replace("\\\n", " ").replace("$SLURM_ARRAY_TASK_ID", "3").replace("$SHARDS", "50")
    caption, merge = (
        re.search(rf"^ *reelscribe ({name} [^&\n]*)", text, re.MULTILINE) for name in ("caption", "merge")
    )
    assert caption
    assert merge
    _, settings = parse(shlex.split(caption[1]))
    assert settings
    assert (str(settings.part()), settings.engine) == ("3/50", "vllm")
    assert "--array=1-50\n" in text
    given, _ = parse(shlex.split(merge[1]))
    assert len(given["shards"]) == 1
