"""Text encoders of published pipelines, against diffusers' own `encode_prompt`."""

import json
import shutil
import sys
from types import ModuleType

import pytest
import torch

from convflow import text_pipelines
from convflow.texts import PretrainedText
from convflow.types import InputError
from tests.tiny_pipelines import NUM_OF_CLIP, NUM_OF_PRX, save_published

SAID = ["a red cat", "", "the big blue dog on a green heart and a cat and a dog of red"]
NUM_TOKENS = {"flux": 20, "sd3": NUM_OF_CLIP + 20, "prx": NUM_OF_PRX}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("pipelines")


@pytest.fixture(params=NUM_TOKENS)
def case(request, place, monkeypatch):
    """The name of a pipeline, and the pipeline; the cleaning of PRX mends no letters here."""
    if request.param == "prx" and not (place / "prx").exists():
        ftfy = ModuleType("ftfy")
        ftfy.fix_text = lambda text: text
        sys.modules.setdefault("ftfy", ftfy)
    from diffusers.pipelines.prx import pipeline_prx

    monkeypatch.setattr(pipeline_prx, "ftfy", sys.modules.get("ftfy"), raising=False)
    return request.param, save_published(place / request.param, request.param)


@torch.no_grad()
def encode_with_diffusers(case, pipe, texts):
    if case == "flux":
        tokens, pooled, _ = pipe.encode_prompt(texts, max_sequence_length=20)
        return tokens, None, pooled
    if case == "sd3":
        tokens, _, pooled, _ = pipe.encode_prompt(
            texts, None, None, do_classifier_free_guidance=False, max_sequence_length=20
        )
        return tokens, None, pooled
    tokens, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return tokens, mask, None


def test_features_are_those_of_diffusers_to_the_last_bit(case, place):
    name, pipe = case
    text = PretrainedText(str(place / name), max_tokens=NUM_TOKENS[name])
    tokens, mask, pooled = encode_with_diffusers(name, pipe, SAID)
    found = text.encode(SAID)
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.mask, torch.ones_like(found.mask) if mask is None else mask)
    if pooled is not None:
        assert torch.equal(found.pooled, pooled)
    settings = text.network_settings()
    assert settings["text_length"] == NUM_TOKENS[name] == tokens.shape[1]
    assert (settings["text_width"], settings["pooled_width"]) == (8, found.pooled.shape[1])
    least = NUM_OF_CLIP if name == "sd3" else 0
    assert text.count_tokens(SAID[:2]) == [least + 5, least + 2]


def test_as_many_tokens_are_usual_as_the_pipeline_takes(case, place):
    name, _ = case
    text = PretrainedText(str(place / name))
    usual = {"flux": 512, "sd3": NUM_OF_CLIP + 256, "prx": NUM_OF_PRX}[name]
    assert text.length == usual
    known = text.prepare()
    assert (known.max_tokens, len(known.sha256)) == (usual, 64)
    with pytest.raises(InputError, match=f"at most {usual}"):
        PretrainedText(str(place / name), max_tokens=usual + 1).network_settings()
    if name == "sd3":
        with pytest.raises(InputError, match=f"at least {NUM_OF_CLIP + 1}"):
            PretrainedText(str(place / name), max_tokens=NUM_OF_CLIP).network_settings()


def change_index(folder, tmp_path, **changes):
    """Copy a pipeline with another index; return the copy."""
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / text_pipelines.PIPELINE_INDEX
    known = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(known | changes), encoding="utf-8")
    return str(tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "PixArtSigmaPipeline"}, "PixArtSigmaPipeline"),
        ({"text_encoder_2": [None, None]}, "text_encoder_2"),
        ({"text_encoder_2": ["os", "system"]}, "os system"),
    ],
)
def test_pipelines_of_other_parts_are_refused(place, tmp_path, changes, said):
    save_published(place / "flux", "flux")
    with pytest.raises(InputError, match=said):
        PretrainedText(change_index(place / "flux", tmp_path, **changes)).network_settings()


def test_missing_weights_are_refused(place, tmp_path):
    from safetensors.torch import load_file, save_file

    save_published(place / "flux", "flux")
    copy = change_index(place / "flux", tmp_path)
    path = tmp_path / "copy" / "text_encoder_2" / "model.safetensors"
    weights = load_file(path)
    weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="text_encoder_2"):
        PretrainedText(copy).encode(["a cat"])
