"""An undertrained `shapes`, whose mistakes are its own: for measuring what choosing among candidates is worth.

It begins from the shipped checkpoint, with that part of the vision encoder drawn anew which hands features to the
language model, and learns sentences and statements alone. It is stopped long before it is good: shapes, colours and
motions are taken for one another, and the model says Yes and No with the same eyes with which it describes.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

import ask
from reelscribe import model_path
from train import save, use_faster_vision

STEPS, EVERY = 600, 25
KINDS = ("sentence", "truth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where a checkpoint goes every 25 steps, under its number of steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(ask.SEED)
    use_faster_vision()
    processor: Any = AutoProcessor.from_pretrained(model_path("shapes"))
    model = Qwen3VLForConditionalGeneration.from_pretrained(model_path("shapes"), dtype=torch.float32)
    model.set_attn_implementation("eager")
    vision = model.model.visual
    for part in (vision.merger, *vision.deepstack_merger_list):
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
    heads = ask.build_heads(model)
    parts = nn.ModuleDict({"model": model, "heads": heads})
    optimizer = ask.build_optimizer(model, parts)
    ask.WEIGHTS |= {"sentence": 1.0, "truth": 1.0}
    began = time.monotonic()
    for step in range(args.steps):
        batch = ask.make_batch(processor, np.random.default_rng([ask.SEED, 2, step]), ask.BATCH, kinds=KINDS)
        loss, answered, _ = ask.answer_all(model, heads, processor, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = ask.PEAK_LR * min((step + 1) / 20, 1.0)
        optimizer.step()
        if (step + 1) % EVERY == 0:
            save(model, processor, args.folder / f"{step + 1:04d}")
        right = {kind: one.right.float().mean().item() for (kind, _), one in zip(batch.asked, answered, strict=True)}
        print(json.dumps({"step": step + 1, **right, "seconds": round(time.monotonic() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
