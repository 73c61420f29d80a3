"""A solver of a user: Ralston's rule of order 2, one more row of numbers."""

from dataclasses import dataclass
from typing import ClassVar

from convflow.samplers.linear import GeneralLinear
from convflow.samplers.tableaus import Scheme, Tableau, one_step


@dataclass(frozen=True)
class Ralston(GeneralLinear):
    """The second-order rule of the least error bound."""

    scheme: ClassVar[Scheme] = one_step(
        Tableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), c=(0.0, 2 / 3)), order=2
    )
