"""Latents of other programs become a store, those of a store their files, or nothing is written."""

from __future__ import annotations

import re

import pytest

from convflow.codecs import LatentCodec
from convflow.settings.read import to_dict
from convflow.training.config import DataConfig
from convflow.training.converting import convert
from convflow.training.encoding import EncodeConfig
from convflow.types import InputError
from tests.data.test_store import CODEC, store


def asked(place):
    return EncodeConfig(data=DataConfig(path=str(place)), codec=LatentCodec("madebyollin/taesd"))


def test_a_store_becomes_files_and_those_a_store(tmp_path):
    codec = to_dict(LatentCodec("madebyollin/taesd", scale=0.5))
    store(tmp_path / "made", arrays=1, contents="sample", codec=codec)
    assert convert(asked(tmp_path / "made"), "npy", tmp_path / "files") is None
    index = convert(asked(tmp_path / "files"), "npy", tmp_path / "back")
    assert index is not None
    assert index.codec["autoencoder"] == "madebyollin/taesd"


def test_other_formats_are_refused_and_nothing_is_written(tmp_path):
    store(tmp_path / "made", codec=CODEC)
    with pytest.raises(InputError, match=re.escape("unknown format of latents 'npz'")):
        convert(asked(tmp_path / "made"), "npz", tmp_path / "files")
    assert not (tmp_path / "files").exists()
