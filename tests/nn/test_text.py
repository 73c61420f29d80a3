"""What networks make of texts."""

import pytest
import torch

from convflow.conditions.text import Spelled, Text, Texts
from convflow.nn.norm import WithText, add
from convflow.nn.text import TextEmbedding, TextReader

IDS = torch.tensor([[1, 5, 7, 0], [1, 0, 0, 0]])


def embedding(rows=0, widths=6, told=0):
    torch.manual_seed(0)
    depth = 1 if rows else 0
    return TextEmbedding(8, 8, 4, rows, depth, widths=widths, told=told)


def test_a_reader_sees_no_padding():
    torch.manual_seed(0)
    reader = TextReader(20, 8, 6, 2)
    short, long = reader(IDS), reader(torch.nn.functional.pad(IDS, (0, 2)))
    torch.testing.assert_close(long.pooled, short.pooled)
    torch.testing.assert_close(long.tokens[0, :3], short.tokens[0, :3])
    assert short.mask.tolist() == (IDS > 0).tolist()


def test_a_reader_tells_the_order_of_words():
    torch.manual_seed(0)
    reader = TextReader(20, 8, 6, 1)
    assert not torch.allclose(reader(IDS).pooled[0], reader(IDS[:, [0, 2, 1, 3]]).pooled[0])


def test_one_vector_or_one_for_each_level():
    assert embedding(rows=20)(IDS).shape == (2, 6)
    assert [v.shape for v in embedding(rows=20, widths=(6, 12))(IDS)] == [(2, 6), (2, 12)]


def test_tokens_go_along_where_blocks_attend_to_them():
    found = embedding(rows=20, widths=(6, 12), told=5)(IDS)
    assert all(isinstance(level, WithText) for level in found)
    assert found[0].tokens.shape == (2, 4, 5)
    assert found[1].tokens is found[0].tokens
    moved = add(found[0], torch.ones(2, 6))
    assert moved.vector.equal(found[0].vector + 1)
    assert moved.mask is found[0].mask


def test_the_empty_text_is_known_and_stored():
    layer = embedding()
    assert isinstance(layer.conditions, Texts)
    mask = torch.tensor([[True, False, False, False]])
    layer.know_empty(Text(torch.full((1, 4, 8), 2.0), mask, torch.full((1, 8), 3.0)))
    other = embedding()
    other.load_state_dict(layer.state_dict())
    assert (other.conditions.empty.pooled == 3).all()
    assert isinstance(embedding(rows=20).conditions, Spelled)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_features_of_any_size_tell_the_same(scale):
    layer, generator = embedding(told=5), torch.Generator().manual_seed(1)
    text = Text(
        torch.randn(2, 4, 8, generator=generator), IDS > 0, torch.randn(2, 8, generator=generator)
    )
    other = Text(scale * text.tokens, text.mask, scale * text.pooled)
    torch.testing.assert_close(layer(other).vector, layer(text).vector, rtol=0.1, atol=0.05)
