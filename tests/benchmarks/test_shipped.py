"""The scores of the shipped model say how many samples got the class that they were asked for."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

from benchmarks.quality import shipped


class Brightness(torch.nn.Module):
    """Names the class whose number is the level of the first pixel."""

    def forward(self, pixels):
        level = pixels[:, 0, 0, 0].long()
        return {"logits": torch.nn.functional.one_hot(level, 10).float()}


@pytest.mark.parametrize("wrong", [0, 5])
def test_the_share_counts_samples_of_the_class_asked_for(tmp_path, monkeypatch, wrong):
    levels = np.arange(20) % 10
    levels[:wrong] = 9
    pixels = np.zeros((20, 32, 32, 3), np.uint8) + levels[:, None, None, None].astype(np.uint8)

    def convflow(*words):
        if "--save-samples" in words:
            np.savez(words[words.index("--save-samples") + 1], arr_0=pixels)
            scores = {f"{title}-20": 0.5 for title in shipped.SCORES}
            card = tmp_path / words[words.index("--out") + 1]
            card.write_text(json.dumps({"scores": scores}), encoding="utf-8")
            assert words[words.index("--guidance") + 1] == "1.5"

    monkeypatch.setattr(shipped, "convflow", convflow)
    monkeypatch.setattr(shipped, "load", Brightness)
    options = argparse.Namespace(
        model="runs/it", solver=["heun", "5"], num=20, out=tmp_path, data=tmp_path,
        weights=None, precision="float32",
    )  # fmt: skip
    found = shipped.score(options, 1.5)
    assert found["agrees"] == f"{1 - wrong / 20:.3f}"
    assert found["FD"] == "0.5"
