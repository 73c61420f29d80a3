"""`convflow encode` asks for what it needs, and lists its settings."""

import pytest

from convflow.cli.main import main


def test_help_lists_every_setting(capsys):
    assert main(["encode", "--codec.scale", "0.5", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("--data.size", "--codec.autoencoder", "--records.contents", "--batch-size"):
        assert word in shown
    assert "0.5" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data"], "expected DATA first and --out STORE"),
        (["--out", "store", "--batch-size", "2"], "expected DATA first and --out STORE"),
        (["data", "--out", "store", "--record.dtype", "float16"], "--records.dtype"),
        (["data", "--out", "store", "--records.dtype", "int8"], "float16 or float32"),
        (
            ["data", "--out", "store", "--format", "npy", "--format", "edm"],
            "of --format edm in data",
        ),
    ],
)
def test_words_that_do_not_fit_are_refused(words, message, capsys):
    assert main(["encode", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
