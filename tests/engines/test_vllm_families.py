"""Families of models in vLLM: what it makes of clips of tiny checkpoints, held against the Transformers engine.

Most of it needs no engine: vLLM's renderer makes the ids, and its classes the positions. Two families go through a
whole engine.
"""

import copy
import functools
import runpy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_in_vllm
import torch
from flow import named
from generating import GREEDY
from sounds import RATE, sweep
from tiny_in_vllm import WHOLE_OMNI, budget_of, config_of
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    GenerationConfig,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
)

from reelscribe.config import Settings
from reelscribe.engines import load_engine, vllm_clips
from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.families import metadata
from reelscribe.engines.patches import floats
from reelscribe.engines.positions import Positions
from reelscribe.engines.prompt import Prompt
from reelscribe.errors import ModelError
from reelscribe.values import Clip, Frames, Generation, Request, Sound, Work

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
REFUSED = {
    "qwen3_omni_thinker": "Multi-modal processor not available",
    "video_llama_3": "it makes other tokens of a clip",
    "perception_lm": "Multi-modal processor not available",
}
TAKEN = [name for name in tiny_in_vllm.NAMES if name not in REFUSED]
AS_IMAGES = ("qwen2_5_vl", "internvl", "smolvlm")
"""Families that are shown images, too. SmolVLM2 takes videos with a newer Transformers alone."""


def with_packages(name: str) -> Any:
    """A parameter of tests, for which a family's packages must be there."""
    marks = [pytest.mark.model_packages] if name.split(maxsplit=1)[0] in tiny_checkpoints.WITH_PACKAGES else []
    return pytest.param(name, marks=marks)


BY_POSITIONS = ("qwen2_5_vl", WHOLE_OMNI)
OF_THREE_AXES = (*BY_POSITIONS, "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v", "glm4v_moe")
"""Families of whose positions vLLM has code of its own."""
CLIPS: tuple[tuple[tuple[float, ...], tuple[int, int]], ...] = (
    (tuple(number * 0.5 for number in range(8)), (3, 2)),
    ((0.0, 0.67, 1.34, 2.01, 2.68), (2, 4)),
    ((0.0, 1 / 30, 10.01, 75.5, 3599.0, 3600.0), (2, 5)),
    ((0.3,), (4, 3)),
    ((0.1, 0.3, 0.35), (2, 2)),
)
"""Times of frames, and their heights and widths in squares of a token."""
SPELLED = "Is <|video_pad|>, <|video|>, <image> or <|im_end|> a token?<|im_end|>\n<|image|>"


@pytest.fixture(scope="module", autouse=True)
def _quick_look() -> Iterator[None]:
    with tiny_in_vllm.quick_look():
        yield


class Tiny:
    """A tiny checkpoint, and what is made of it."""

    def __init__(self, name: str, folder: Path, show: str = "auto") -> None:
        self.name, self.folder = name, tiny_in_vllm.make(name, folder)
        self.checkpoint = Checkpoint.load(str(folder), revision=None, show=show)
        self.family, self.processor = self.checkpoint.family, self.checkpoint.processor

    def frames(self, times: Sequence[float], shape: tuple[int, int]) -> Frames:
        return vllm_clips._clip(self.checkpoint.limits, times, shape)

    @property
    def hearing(self) -> Any:
        """How it takes sound."""
        return self.checkpoint.limits.hearing

    @property
    def heard(self) -> int:
        """The token of sound."""
        return int(self.processor.tokenizer.convert_tokens_to_ids(self.processor.audio_token))

    def words(self, prompt: str = "What happens?", *, hears: bool = False) -> Prompt:
        request = Request(id=named("a"), clip=Clip(source="a.mp4"), prompt=prompt, system_prompt="Be brief.")
        return Prompt.of(self.processor, self.family, request, hears=hears)

    def rendered(self, renderer: Any, words: Prompt, frames: Frames) -> Any:
        """What vLLM's renderer makes of a prompt with a clip, as the engine sends it on."""
        prompt = vllm_clips.prompt_for_vllm(words, self.processor, self.family, frames, "clip")
        [made] = renderer.render_cmpl([prompt])
        vllm_clips.keep_seconds(made, self.family, frames)
        return made

    def ours(self, words: Prompt, frames: Frames) -> list[int]:
        """The ids of the Transformers engine."""
        layout = self.family.show(self.processor, frames).layout
        return words.with_video(self.family.mark, layout).ids(self.processor.tokenizer)

    def positions(self, ids: Sequence[int], frames: Frames) -> torch.Tensor:
        """Where the Transformers model has these tokens; Omni's, of which there are 13 a second, rounded down."""
        kinds = {name: torch.tensor([[of.get(each, 0) for each in ids]]) for name, of in self.family.kinds.items()}
        shown = self.family.show(self.processor, frames)
        return Positions(self.model)(torch.tensor(ids), {**shown.tensors, **kinds}).long()

    @functools.cached_property
    def model(self) -> Any:
        """The Transformers model, with other weights."""
        made = AutoModelForMultimodalLM.from_config(AutoConfig.from_pretrained(self.folder))
        return getattr(made, "thinker", made)


def positions_in_vllm(config: Any, made: Any) -> torch.Tensor:
    """Where vLLM has the tokens of what its renderer made of a prompt with a clip."""
    from vllm.model_executor.model_loader import get_model_architecture

    model = object.__new__(get_model_architecture(config.model_config)[0])
    hf = config.model_config.hf_config
    model.__dict__["config"] = getattr(hf, "thinker_config", hf)
    features = [
        SimpleNamespace(modality=kind, data=items[0], mm_position=made["mm_placeholders"][kind][0])
        for kind, items in made["mm_kwargs"].items()
    ]
    found: torch.Tensor = model.get_mrope_input_positions(made["prompt_token_ids"], features)[0]
    return found


@pytest.fixture(scope="module", params=map(with_packages, [*TAKEN, *(f"{name} as images" for name in AS_IMAGES)]))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    name, _, images = request.param.partition(" as ")
    return Tiny(name, tmp_path_factory.mktemp("tiny") / name, images or "auto")


@pytest.fixture(scope="module")
def config(tiny: Tiny) -> Any:
    return config_of(tiny.checkpoint)


@pytest.fixture(scope="module")
def renderer(config: Any) -> Iterator[Any]:
    from vllm.renderers import renderer_from_config

    made = renderer_from_config(config)
    yield made
    made.shutdown()


def test_the_table_is_up_to_date(tiny: Tiny) -> None:
    if tiny.family.stills and tiny.name in AS_IMAGES:
        return
    tool = runpy.run_path(str(ROOT / "tools" / "render_models.py"))
    config = config_of(tiny.checkpoint, audio=bool(tiny.hearing))
    line = tool["row_in_vllm"](tiny.name, tiny.family, vllm_clips.fault_of(config, tiny.checkpoint, tiny.hearing))
    page = tool["PAGE"].read_text("utf-8").partition(tool["BEGIN_VLLM"])[2]
    assert line in page.splitlines(), "run: .venv-vllm/bin/python tools/render_models.py"


class TestPrompts:
    @pytest.mark.parametrize("prompt", ["What happens?", SPELLED])
    def test_ids_are_those_of_the_transformers_engine(self, tiny: Tiny, renderer: Any, prompt: str) -> None:
        words = tiny.words(prompt)
        for times, shape in CLIPS:
            frames = tiny.frames(times, shape)
            made = tiny.rendered(renderer, words, frames)
            ours = tiny.ours(words, frames)
            assert vllm_clips._places(made, tiny.processor, tiny.family) == ours
            if tiny.name != "internvl":  # whose frames get another token, which the model is not fed
                assert list(made["prompt_token_ids"]) == ours

    def test_it_is_taken(self, tiny: Tiny, config: Any) -> None:
        vllm_clips.check(config, tiny.checkpoint, "tiny")

    @pytest.mark.parametrize("tiny", ["gemma4_small"], indirect=True)
    def test_a_beginning_is_not_put_twice(self, tiny: Tiny) -> None:
        tokenizer = tiny.processor.tokenizer
        tokenizer.add_bos_token = True
        assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        prompt = vllm_clips.prompt_for_vllm(tiny.words(), tiny.processor, tiny.family, None, "clip")
        assert prompt["prompt_token_ids"].count(tokenizer.bos_token_id) == 1


class TestTimes:
    @pytest.mark.parametrize("tiny", OF_THREE_AXES, indirect=True)
    def test_positions_are_those_of_the_transformers_model(self, tiny: Tiny, config: Any, renderer: Any) -> None:
        words = tiny.words()
        for times, shape in CLIPS:
            frames = tiny.frames(times, shape)
            made = tiny.rendered(renderer, words, frames)
            ids = tiny.ours(words, frames)
            found, expected = positions_in_vllm(config, made), tiny.positions(ids, frames)
            [place] = made["mm_placeholders"]["video"]
            end = place.offset + place.length
            if tiny.name == "qwen2_5_vl":
                # Released as vLLM has it: text goes on behind the last time. Transformers 5 lets it overlap with times.
                expected[:, end:] = torch.arange(len(ids) - end) + expected[:, :end].max() + 1
            assert found.tolist() == expected.tolist()

    @pytest.mark.parametrize("tiny", BY_POSITIONS, indirect=True)
    def test_seconds_are_exact_in_bfloat16(self, tiny: Tiny, renderer: Any) -> None:
        frames = tiny.frames((0.0, 0.67, 1.34, 2.01, 2.68), (2, 2))
        data = tiny.rendered(renderer, tiny.words(), frames)["mm_kwargs"]["video"][0].get_data()
        shown = tiny.family.show(tiny.processor, frames).tensors
        fed, ours = ([each.item() for name, each in made.items() if "second" in name] for made in (data, shown))
        assert fed == pytest.approx(ours, rel=1e-6)
        assert fed == pytest.approx([1.34], rel=1e-6)


@pytest.mark.parametrize("tiny", [WHOLE_OMNI], indirect=True)
class TestSound:
    """It stands beside the frames. vLLM can lay it out among them, by their times, but places them by times that are
    rounded down. If that test fails, vLLM may have fixed it: then it could be given as in the Transformers engine.
    """

    @pytest.fixture(scope="class", params=["float32", "bfloat16"])
    @classmethod
    def hearing(cls, tiny: Tiny, request: pytest.FixtureRequest) -> Any:
        """What vLLM is configured with to take sound."""
        return config_of(tiny.checkpoint, audio=True, dtype=request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def listener(cls, hearing: Any) -> Iterator[Any]:
        from vllm.renderers import renderer_from_config

        made = renderer_from_config(hearing)
        yield made
        made.shutdown()

    def clip(self, tiny: Tiny, rate: float) -> Frames:
        """Ten seconds of a film with so many frames a second, with sound."""
        times = [number / rate for number in range(int(10 * rate))]
        length = times[-1] + 1 / rate
        frames = tiny.frames([times[number] for number in budget_of(tiny.checkpoint).pick(times, length)], (2, 3))
        samples = sweep(length)[: int(100 * length) * 160]  # as many as vLLM hears: whole windows
        return replace(frames, duration_seconds=length, sound=Sound(samples=samples, rate=RATE, heard="heard"))

    @pytest.mark.parametrize("rate", [24, 30000 / 1001])
    def test_frames_are_misplaced_if_it_is_among_them(
        self, tiny: Tiny, hearing: Any, listener: Any, rate: float
    ) -> None:
        words, frames = tiny.words(), self.clip(tiny, rate)
        assert frames.sound
        prompt = vllm_clips.prompt_for_vllm(words, tiny.processor, tiny.family, frames, "clip")
        prompt["mm_processor_kwargs"] |= {"use_audio_in_video": True}
        [made] = listener.render_cmpl([prompt])
        vllm_clips.keep_seconds(made, tiny.family, frames)
        ids = tiny.ours(words, frames)
        if hearing.model_config.dtype == torch.float32:
            assert list(made["prompt_token_ids"]) == ids
        wrong = (positions_in_vllm(hearing, made) != tiny.positions(ids, frames)).any(0).sum()
        groups = len(frames.timestamps) // 2
        assert wrong == (groups - 1) * (2 * 3 + 1)  # all but the first, and a token of sound before each

    @pytest.mark.parametrize("prompt", ["What happens?", SPELLED + "<|audio_pad|>"])
    def test_ids_and_positions_are_those_of_its_processor(
        self, tiny: Tiny, hearing: Any, listener: Any, prompt: str
    ) -> None:
        words = tiny.words(prompt, hears=True)
        assert words.text.count("<|audio_pad|>") == 1
        for frames in (self.clip(tiny, 25), vllm_clips._clip(tiny.checkpoint.limits, *CLIPS[1], hearing=tiny.hearing)):
            assert frames.sound
            longer = replace(frames.sound, samples=np.pad(frames.sound.samples, (0, 160)))
            shorter = replace(frames.sound, samples=longer.samples[:-37])  # vLLM makes it whole windows long
            made = tiny.rendered(listener, words, replace(frames, sound=shorter))
            heard = replace(frames, sound=longer)
            plain = tiny.words(hears=True)  # the processor knows no covers
            ids, beside = vllm_clips.by_processor(plain, tiny.processor, tiny.family, heard)
            asked, end = (each.ids(tiny.processor.tokenizer) for each in (words, plain))
            tail = len(end) - end.index(tiny.heard) - 1
            ids = ids[: len(ids) - tail] + asked[asked.index(tiny.heard) + 1 :]
            assert list(made["prompt_token_ids"]) == vllm_clips._places(made, tiny.processor, tiny.family) == ids
            whole = torch.tensor([ids])
            told = {**beside, "input_ids": whole, "attention_mask": torch.ones_like(whole), "use_audio_in_video": False}
            expected = tiny.model._prepare_position_ids_for_generation(whole, told)
            assert positions_in_vllm(hearing, made).tolist() == expected[-3:, 0].long().tolist()

    def test_silence_and_sound_differ(self, tiny: Tiny, listener: Any) -> None:
        frames = self.clip(tiny, 25)
        assert frames.sound
        silent = replace(frames, sound=replace(frames.sound, samples=0 * frames.sound.samples))
        loud, still = (tiny.rendered(listener, tiny.words(hears=True), each) for each in (frames, silent))
        assert loud["prompt_token_ids"] == still["prompt_token_ids"]
        heard, unheard = (each["mm_kwargs"]["audio"][0].get_data()["input_audio_features"] for each in (loud, still))
        assert (heard - unheard).abs().max() > 0.5

    def test_a_clip_without_any_has_none_in_its_prompt(self, tiny: Tiny, listener: Any) -> None:
        frames = self.clip(tiny, 25)
        assert frames.sound
        mute = replace(frames, sound=replace(frames.sound, samples=frames.sound.samples[:0], heard="no track"))
        made = tiny.rendered(listener, tiny.words(), mute)
        assert "audio" not in made["mm_placeholders"]
        assert list(made["prompt_token_ids"]) == tiny.ours(tiny.words(), mute)

    def test_it_is_seen_before_weights_are_loaded(
        self, tiny: Tiny, hearing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vllm_clips.check(hearing, tiny.checkpoint, "tiny", tiny.hearing)
        told = vllm_clips.prompt_for_vllm
        for wrong, why in ((slice(None, None, -1), "features of it"), (slice(1600, None), "tokens of a clip")):

            def changed(*args: Any, wrong: slice = wrong) -> Any:
                prompt = told(*args)
                for sounds in filter(None, [prompt["multi_modal_data"].get("audio")]):
                    sounds[0] = sounds[0][wrong]
                return prompt

            monkeypatch.setattr(vllm_clips, "prompt_for_vllm", changed)
            with pytest.raises(ModelError, match=f"with its sound, it makes other {why} .* or leave audio out"):
                vllm_clips.check(hearing, tiny.checkpoint, "tiny", tiny.hearing)

    def test_memory_is_set_aside_for_as_much_as_it_may_cost(self, tiny: Tiny, hearing: Any) -> None:
        from vllm.multimodal import MULTIMODAL_REGISTRY
        from vllm.multimodal.encoder_budget import MultiModalBudget

        budget = replace(budget_of(tiny.checkpoint, audio=True), max_frames=8)
        vllm_clips.set_aside(hearing, budget, ours=True)
        found = MultiModalBudget(hearing, MULTIMODAL_REGISTRY)
        assert found.encoder_cache_size == budget.most_sound_tokens > budget.most_tokens


class TestRefusal:
    """Nothing but what vLLM makes of clips decides."""

    @pytest.mark.parametrize("name", map(with_packages, REFUSED))
    def test_families_that_it_takes_otherwise_are_refused(self, name: str, tmp_path: Path) -> None:
        refused = Tiny(name, tmp_path / name)
        with pytest.raises(
            ModelError, match=rf"^vLLM cannot be trusted with .*{REFUSED[name]}.* --engine transformers, "
        ):
            vllm_clips.check(config_of(refused.checkpoint), refused.checkpoint, name)

    def test_the_engine_refuses_them_before_it_loads_weights(self, tmp_path: Path) -> None:
        folder = tiny_checkpoints.make("video_llama_3", tmp_path / "model")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"it makes other tokens of a clip .* --engine transformers, or "):
            load_engine(Settings(model=str(folder), engine="vllm", model_params={"max_model_len": 1024}))

    @pytest.mark.parametrize("tiny", ["qwen2_5_vl", "qwen3_vl"], indirect=True)
    def test_wrong_times_are_found(self, tiny: Tiny, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        told = "reelscribe.engines.vllm_clips.metadata"
        monkeypatch.setattr(told, lambda times, length: metadata([2 * at for at in times], 2 * length))
        with pytest.raises(ModelError, match=r"it makes other tokens of a clip|it does not tell the model the times"):
            vllm_clips.check(config, tiny.checkpoint, "tiny")

    @pytest.mark.parametrize("tiny", ["internvl"], indirect=True)
    def test_a_frame_that_is_lost_is_found(self, tiny: Tiny, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from vllm.multimodal.parse import MultiModalDataParser

        real = MultiModalDataParser._parse_video_data
        monkeypatch.setattr(
            MultiModalDataParser,
            "_parse_video_data",
            lambda parser, data: real(parser, [(pixels[1:], told) for pixels, told in data]),
        )
        with pytest.raises(ModelError, match="it makes other tokens of a clip"):
            vllm_clips.check(config, tiny.checkpoint, "tiny")


class TestMemory:
    """What vLLM sets aside memory for."""

    def test_the_largest_clip_is_let_through_and_none_that_is_much_larger_counts(self, tiny: Tiny) -> None:
        from vllm.multimodal import MULTIMODAL_REGISTRY
        from vllm.multimodal.encoder_budget import MultiModalBudget

        config, budget = config_of(tiny.checkpoint), budget_of(tiny.checkpoint)
        vllm_clips.set_aside(config, budget, ours=True)
        found = MultiModalBudget(config, MULTIMODAL_REGISTRY)
        assert budget.most_tokens >= config.scheduler_config.max_num_batched_tokens
        assert found.encoder_cache_size == found.encoder_compute_budget == budget.most_tokens
        assert 0 < found.mm_max_toks_per_item["image" if tiny.family.stills else "video"] <= budget.most_tokens

    @pytest.mark.parametrize("tiny", ["qwen2_5_vl"], indirect=True)
    def test_what_a_user_says_stays(self, tiny: Tiny) -> None:
        told = {"size": {"longest_edge": 10**7, "shortest_edge": 784}}
        config = config_of(tiny.checkpoint, mm_processor_kwargs=copy.deepcopy(told))
        vllm_clips.set_aside(config, budget_of(tiny.checkpoint), ours=False)
        assert config.model_config.multimodal_config.mm_processor_kwargs == told


HEAD = 64
"""Numbers in a head of attention, which vLLM's kernels for CPUs want."""


def wide(name: str, folder: Path) -> Path:
    """A tiny checkpoint with one head of attention in its language model."""
    config = AutoConfig.from_pretrained(tiny_checkpoints.make(name, folder))
    text = config.get_text_config()
    text.num_attention_heads = text.num_key_value_heads = text.hidden_size // HEAD
    if "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [HEAD // 8, HEAD * 3 // 16, HEAD * 3 // 16]
    model = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32)
    tiny_checkpoints.enliven(model)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def wide_omni(folder: Path) -> Any:
    """The whole of Qwen3-Omni, saved as released; its model."""
    config = AutoConfig.from_pretrained(tiny_checkpoints.make("qwen3_omni_thinker", folder))
    text, vision = config.get_text_config(), config.vision_config
    text.head_dim, text.num_attention_heads, text.num_key_value_heads = HEAD, 1, 1
    text.rope_parameters["mrope_section"] = [HEAD // 8, HEAD * 3 // 16, HEAD * 3 // 16]
    # Words that vLLM wants, and Transformers does not.
    text.tie_word_embeddings, vision.apply_vit_abs_pos_embed = False, True
    vision.image_size = vision.patch_size * round(vision.num_position_embeddings**0.5)
    words = Qwen3OmniMoeConfig(thinker_config=config.to_dict(), enable_audio_output=False)
    whole = Qwen3OmniMoeForConditionalGeneration(words).float().eval()
    tiny_checkpoints.enliven(whole.thinker)
    whole.generation_config = GenerationConfig.from_pretrained(folder)
    whole.save_pretrained(folder)
    return whole


def test_sound_is_heard_beside_the_frames(tmp_path: Path) -> None:
    """By vLLM's whole engine as by `generate`, for what the processor makes of the same message."""
    from reelscribe.engines.vllm import load

    whole = wide_omni(tmp_path / "omni")
    checkpoint = Checkpoint.load(str(tmp_path / "omni"), revision=None)
    processor, family = checkpoint.processor, checkpoint.family
    # A second from group to group is 13 positions. vLLM rounds what is not whole down.
    loud = vllm_clips._clip(checkpoint.limits, (0.0, 0.5, 1.0, 1.5, 2.0, 2.5), (2, 3), checkpoint.limits.hearing)
    assert loud.sound
    silence = replace(loud.sound, samples=0 * loud.sound.samples)
    clips = {"loud": loud, "still": replace(loud, sound=silence), "mute": replace(loud, sound=None)}
    works = [
        Work(
            requests=(
                Request(id=named(name), clip=Clip(source="a.mp4"), prompt="What?", sampling=GREEDY, keep="likeliest"),
            ),
            frames=frames,
        )
        for name, frames in clips.items()
    ]
    engine = load(Settings(model=checkpoint.path, engine="vllm", audio=True, model_params={"max_model_len": 1024}))
    try:
        made = {reply.id.task: reply for reply in engine.generate(iter(works))}
    finally:
        engine.close()
    assert engine.info.details == {"times_given": "positions", "sound_given": "beside"}
    likelihoods = []
    for work in works:
        [request], frames = work.requests, work.frames
        words = Prompt.of(processor, family, request, hears=frames.has_sound)
        ids, fed = vllm_clips.by_processor(words, processor, family, frames)
        told = {
            **{name: value for name, value in fed.items() if torch.is_tensor(value)},
            "pixel_values_videos": floats_of(family, frames),
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
        }
        expected = whole.thinker.generate(
            **told, use_audio_in_video=False, do_sample=False, max_new_tokens=GREEDY.max_tokens,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        said = expected.sequences[0, len(ids) :]
        logprobs = torch.stack(expected.logits)[:, 0].log_softmax(-1)[range(len(said)), said]
        answer = made[request.id.task]
        assert isinstance(answer, Generation)
        assert answer.prompt_tokens == len(ids)
        assert answer.candidates[0].mean_logprob == pytest.approx(logprobs.mean().item(), abs=5e-3)
        likelihoods.append(logprobs.mean().item())
    assert abs(likelihoods[0] - likelihoods[1]) > 0.03


def floats_of(family: Any, frames: Frames) -> torch.Tensor:
    """The pixels of a clip, as a model is fed them."""
    return floats(torch.from_numpy(family.cut.patches(frames.pixels)), family.cut.scales(torch.device("cpu")))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_answers_are_those_of_the_transformers_engine(name: str, tmp_path: Path) -> None:
    """With times by positions and sizes of ours, and with a constant a frame and no times."""
    from reelscribe.engines.transformers import TransformersEngine
    from reelscribe.engines.vllm import load

    folder = wide(name, tmp_path / name)
    theirs = TransformersEngine(str(folder), device="cpu", dtype="float32")
    limits = theirs.info.limits
    # Of times that reach no further than the sides of frames: beyond that Transformers 5 places text otherwise.
    clips = {
        "a.mp4": vllm_clips._clip(limits, (0.0, 0.25, 0.5, 0.75), (2, 5)),
        "b.mp4": vllm_clips._clip(limits, (0.0, 0.3, 0.6), (4, 3)),
    }
    works = [
        Work(
            requests=tuple(
                Request(
                    id=named(f"{prompt} {name}"),
                    clip=Clip(source=name),
                    prompt=prompt,
                    sampling=GREEDY,
                    keep="likeliest",
                )
                for prompt in ("What?", "And why?")
            ),
            frames=frames,
        )
        for name, frames in clips.items()
    ]
    engine = load(Settings(model=str(folder), engine="vllm", model_params={"max_model_len": 1024}))
    try:
        made, other = ({each.id: each for each in one.generate(iter(works))} for one in (engine, theirs))
    finally:
        engine.close()
    assert len(made) == 4
    likelihoods = set()
    for key, answer in made.items():
        expected = other[key]
        assert isinstance(answer, Generation)
        assert isinstance(expected, Generation)
        [one], [two] = answer.candidates, expected.candidates
        # Random models say bytes that are no text, of which vLLM's tokenizer leaves out the last ones.
        assert one.text.replace("\ufffd", "").strip() in two.text.replace("\ufffd", "")
        assert (answer.prompt_tokens, one.num_tokens) == (expected.prompt_tokens, two.num_tokens)
        assert one.mean_logprob == pytest.approx(two.mean_logprob, abs=1e-3)
        likelihoods.add(two.mean_logprob)
    assert len(likelihoods) == 4
