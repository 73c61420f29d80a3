"""Engines are chosen by name, and one process needs none of them."""

import pytest
import torch

from convflow.models.blocks import is_block
from convflow.parallel.engines import ENGINES, Parallel, Sharded
from convflow.parallel.single import Single
from convflow.recipes import create_config
from convflow.settings.read import read
from convflow.training.overrides import override
from convflow.types import InputError


@pytest.mark.parametrize("kind", ENGINES)
def test_one_process_needs_no_exchange(kind):
    engine = read(kind, Parallel)
    assert type(engine.create(torch.device("cpu"), False, is_block)) is Single


def test_words_choose_an_engine_and_its_settings():
    config = create_config("digits.flowdcn")
    assert override(config, ["--parallel", "fsdp"]).parallel == Sharded()
    words = ["--parallel.kind", "fsdp", "--parallel.shard-size", "4"]
    assert override(config, words).parallel == Sharded(shard_size=4)
    with pytest.raises(InputError, match="the engine ddp has no shard-size"):
        override(config, ["--parallel", "ddp", "--parallel.shard-size", "4"])
