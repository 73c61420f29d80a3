"""Text encoders of transformers, tiny and with random weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from convflow.text_encoders import load, read_shape
from convflow.texts import PretrainedText
from convflow.types import InputError
from tests.tiny_encoders import save_encoder

KINDS = {"clip": 16, "t5": 24, "gemma": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(kind, place / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_features_have_the_widths_that_are_told_without_weights(folders, kind):
    shape = read_shape(folders[kind])
    assert shape[:2] == (KINDS[kind], KINDS[kind])
    found = load(folders[kind]).encode(["a red cat", "", "dog"], 8)
    assert found.tokens.shape == (3, 8, shape.tokens)
    assert found.pooled.shape == (3, shape.pooled)
    assert found.mask.sum(1).tolist() == [5, 2, 3]
    assert found.tokens.isfinite().all()
    assert not torch.allclose(found.pooled[0], found.pooled[2])


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_a_text_do_not_depend_on_padding_or_neighbours(folders, kind):
    encoder = load(folders[kind])
    short, long = encoder.encode(["a cat"], 5), encoder.encode(["a cat", "the big dog"], 9)
    mask = short.mask[0]
    torch.testing.assert_close(long.tokens[0, :5][mask], short.tokens[0][mask])
    torch.testing.assert_close(long.pooled[0], short.pooled[0])
    assert (long.tokens[0][~long.mask[0]] == 0).all()


def test_tokens_are_counted_before_they_are_cut(folders):
    encoder = PretrainedText(folders["t5"], max_tokens=4)
    assert encoder.count_tokens(["a red cat", "dog"]) == [5, 3]
    assert encoder.encode(["a red cat"]).mask.all()


def test_an_encoder_in_a_pipeline_finds_its_tokenizer_beside_it(folders, tmp_path):
    shutil.copytree(folders["clip"], tmp_path / "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    for file in (tmp_path / "text_encoder").glob("*token*"):
        file.rename(tmp_path / "tokenizer" / file.name)
    found = load(str(tmp_path / "text_encoder")).encode(["a cat"], 5)
    assert found.pooled.equal(load(folders["clip"]).encode(["a cat"], 5).pooled)


def test_other_weights_than_before_are_refused(folders, tmp_path):
    known = PretrainedText(folders["t5"]).prepare()
    assert len(known.sha256) == 64
    assert (known.width, known.pooled) == (24, 24)
    other = save_encoder("t5", tmp_path / "t5", seed=1)
    with pytest.raises(InputError, match="SHA-256"):
        _ = PretrainedText(other, sha256=known.sha256).network


def test_missing_weights_are_refused(folders, tmp_path):
    shutil.copytree(folders["t5"], tmp_path / "t5")
    path = tmp_path / "t5" / "model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="without "):
        load(str(tmp_path / "t5"))


def test_what_is_no_encoder_is_refused(tmp_path):
    for name in (str(tmp_path), str(tmp_path / "nothing")):
        with pytest.raises(InputError, match="text encoder"):
            read_shape(name)


def test_half_precision_is_kept_as_float16(folders):
    half = PretrainedText(folders["t5"], dtype="bfloat16").encode(["a cat"])
    full = PretrainedText(folders["t5"]).encode(["a cat"])
    assert half.tokens.dtype == torch.float32
    assert half.tokens.half().float().equal(half.tokens)
    torch.testing.assert_close(half.pooled.float(), full.pooled, rtol=0.1, atol=0.1)


def test_more_tokens_than_an_encoder_takes_are_refused(folders):
    with pytest.raises(InputError, match="at most 16"):
        PretrainedText(folders["clip"], max_tokens=17).network_settings()
