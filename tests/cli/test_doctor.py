"""`convflow doctor` names versions and the operator's path, and its self-test can fail."""

from __future__ import annotations

import json

import pytest
import torch

from convflow.cli import doctor
from convflow.cli.main import main
from convflow.ops.deform import reference


def test_reports_and_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["versions"]["torch"] == torch.__version__
    assert report["operator"]["cpu"].split()[0] in {"numba", "reference"}
    assert all(result.startswith("ok") for result in report["self-test"].values())


def test_a_wrong_operator_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reference.deform_sample
    monkeypatch.setattr(reference, "deform_sample", lambda *inputs: honest(*inputs) * 1.01)
    monkeypatch.setattr(doctor, "_check_training", lambda: None)
    assert main(["doctor"]) == 1
    assert "operator forward     FAILED" in capsys.readouterr().out
