"""`ClipScore` beside what the model itself makes of each text and each frame."""

from pathlib import Path

import numpy as np
import pytest
from flow import prepared

from reelscribe.errors import ModelError
from reelscribe.scorers import ClipScore
from reelscribe.scores import ToScore

pytestmark = pytest.mark.transformers


def _save_tiny(kind: str, folder: Path) -> None:
    import torch
    import transformers
    from tiny_checkpoints import _tokenizer

    tokenizer = _tokenizer([], eos="<eos>", pad="<eos>")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    ids = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 12, **ids}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8}
    )
    torch.manual_seed(1)
    getattr(transformers, f"{kind}Model")(config).eval().save_pretrained(folder)
    side = {"height": 16, "width": 16}
    image = transformers.CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    transformers.CLIPProcessor(image, tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_scores_are_cosines_of_texts_and_frames(tmp_path: Path, kind: str) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    _save_tiny(kind, tmp_path)
    frames = prepared().frames
    frames.pixels[:] = np.random.default_rng(1).integers(0, 255, frames.pixels.shape)
    clips = [
        ToScore(texts=("a red ball", "a text that is far too long for so small a model " * 3), frames=frames, row={}),
        ToScore(texts=("one",), frames=frames, row={}),
    ]
    scorer = ClipScore(str(tmp_path), frames=1)
    together, alone = scorer(clips), [scorer([clip])[0] for clip in clips]
    assert [len(scores) for scores in together] == [2, 1]
    for scores, others in zip(together, alone, strict=True):
        assert scores == pytest.approx(others, abs=1e-5)
    made = AutoProcessor.from_pretrained(tmp_path)(
        text=["a red ball"], images=[frames.pixels[0]], padding="max_length", max_length=12, return_tensors="pt"
    )
    with torch.inference_mode():
        out = AutoModel.from_pretrained(tmp_path).eval()(**made)
    cosine = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds).item()
    assert together[0][0] == pytest.approx(cosine, abs=1e-5)


def test_folder_without_such_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of ClipScore cannot be loaded"):
        ClipScore(str(tmp_path))
