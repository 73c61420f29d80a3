"""Images that are held back: which they are, and that nothing else changes."""

import numpy as np
import pytest

from convflow.data.loader import Order
from convflow.training.validation import PartOrder, hold_back
from convflow.types import InputError


def test_a_seed_chooses_the_images():
    first, again, other = (hold_back(1000, 100, seed) for seed in (3, 3, 4))
    assert first.tolist() == again.tolist() == sorted({*first.tolist()})
    assert len(first) == 100
    assert len(np.intersect1d(first, other)) < 40
    assert hold_back(10, 0, 3).tolist() == []
    with pytest.raises(InputError, match=r"--monitor\.validation: .* the 10 there are, got 10"):
        hold_back(10, 10, 3)


def test_an_order_of_some_images_shows_them_once_in_an_epoch():
    places = np.array([1, 4, 5, 9])
    order = PartOrder(Order(4, seed=0, flip=True), places)
    rows = order.rows(4, 8)
    assert sorted(rows.indices[:4]) == sorted(rows.indices[4:]) == places.tolist()
    assert rows.flips.tolist() == order.order.rows(4, 8).flips.tolist()
    assert order.fingerprint != PartOrder(order.order, places + 1).fingerprint
    assert order.count == order.largest(4) == 4
