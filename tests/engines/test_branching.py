"""Which models can decode with a branching cache, and which get a copy of the prompt for each candidate."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

from reelscribe.engines.branching import BranchingCache, can_branch


@pytest.mark.parametrize(
    ("config", "kinds", "able"),
    [
        ({}, [DynamicLayer(), LinearAttentionLayer()], True),
        ({"layer_types": ["full_attention"]}, [DynamicLayer()], True),
        ({"layer_types": ["full_attention", "chunked_attention"]}, [DynamicLayer()], False),
        ({"kv_lora_rank": 16}, [DynamicLayer()], False),
        ({"kv_lora_rank": None}, [DynamicLayer()], True),
        ({"attn_logit_softcapping": 50.0}, [DynamicLayer()], False),
        ({}, [DynamicLayer(), LinearAttentionAndFullAttentionLayer()], False),
    ],
)
def test_what_can_branch(config: dict[str, Any], kinds: list[Any], able: bool) -> None:
    assert can_branch(SimpleNamespace(**config), kinds) is able


def test_a_cache_of_unknown_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="a kind of layer that cannot branch"):
        BranchingCache([LinearAttentionAndFullAttentionLayer()], torch.device("cpu"))


def test_padding_in_a_row_is_an_error_where_there_are_states() -> None:
    filled = DynamicCache()
    layer = LinearAttentionLayer()
    layer.update_conv_state(torch.ones(1, 2, 4))
    filled.layers = [layer]
    cache = BranchingCache.over(filled, [4], [2], torch.device("cpu"))
    assert cache.has_states
    with pytest.raises(ValueError, match="rows of a step must be all padding, or have none"):
        cache.begin_step(torch.tensor([[False, True], [True, True]]))
