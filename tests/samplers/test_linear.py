"""Solvers of fixed cost and searched ones, as parts."""

import pytest

from convflow.processes.process import create_process
from convflow.samplers.linear import GeneralLinear, Searched
from convflow.samplers.multistep import CoefficientTable, table_path, write_table
from convflow.samplers.solver import Solver
from convflow.settings.read import read, to_dict
from convflow.types import InputError

TABLE = CoefficientTable((0.0, 0.3, 1.0), ((1.0,), (-0.5, 1.5)))


def test_a_table_is_given_or_lies_beside_the_weights(tmp_path):
    with pytest.raises(InputError, match="expected a table of coefficients"):
        Searched().beside(None)
    assert Searched(table=TABLE).num_steps == 2
    stored = to_dict(Searched(table=TABLE))
    assert read(stored, Solver) == Searched(table=TABLE)
    write_table(table_path(tmp_path, 2), TABLE)
    assert Searched(steps=2).beside(tmp_path) == Searched(table=TABLE)
    assert Searched(table=str(table_path(tmp_path, 2))) == Searched(table=TABLE)


def test_only_euler_pauses_with_scales():
    process = create_process("dfm")
    GeneralLinear("euler").check(process, "cfg-zero")
    GeneralLinear("heun").check(create_process("flow"), "cfg-zero")
    with pytest.raises(InputError, match="expected the solver euler for the guidance cfg-zero"):
        GeneralLinear("heun").check(process, "cfg-zero")
