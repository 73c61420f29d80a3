"""`convflow demo digits` trains, draws its page and tells what to try next."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from convflow.cli.main import main
from convflow.demo import digits
from convflow.training.config import TrainConfig
from convflow.training.overrides import override
from tests.cli.conftest import TINY


def test_draws_a_page_and_finds_the_training_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = digits.flowdcn

    def tiny() -> TrainConfig:
        return override(recipe(), TINY)

    monkeypatch.setattr(digits, "flowdcn", tiny)
    run = tmp_path / "demo"
    assert main(["demo", "digits", "--run", str(run)]) == 0
    words = capsys.readouterr().out
    assert str(run / "page.png") in words
    assert f"convflow sample {run}" in words
    with Image.open(run / "page.png") as page:
        assert page.width > 500
    steps = sorted((run / "checkpoints").iterdir())
    assert main(["demo", "digits", "--run", str(run)]) == 0
    assert sorted((run / "checkpoints").iterdir()) == steps
