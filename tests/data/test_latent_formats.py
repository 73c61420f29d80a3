"""Latents go to the formats of other programs and come back."""

import zipfile
from importlib.util import find_spec

import numpy as np
import pytest

from convflow.cli.main import main
from convflow.codecs import LatentCodec
from convflow.data.latent_formats import export_latents
from convflow.data.latents import Latents
from convflow.settings.read import to_dict
from convflow.types import InputError
from tests.data.test_store import CODEC, store

SHIFTED = to_dict(LatentCodec("madebyollin/taesd", scale=0.5, shift=0.25))


def everything(place):
    latents = Latents("store", [place])
    rows = np.arange(len(latents))
    views = [False, True][: 1 + latents.index.flipped]
    read = [latents.batch(rows, np.full(len(rows), mirrored))[0].numpy() for mirrored in views]
    return np.stack(read, 1), latents


KINDS = {"npy": 1, "edm": 2, "lightning": 1, "mar": 2, "zarr": 1, "lmdb": 2, "pt": 2}


@pytest.mark.parametrize(("kind", "arrays"), KINDS.items())
def test_latents_come_back(kind, arrays, tmp_path):
    if kind in ("zarr", "lmdb"):
        pytest.importorskip(kind)
    contents = "moments" if arrays == 2 else "sample"
    store(tmp_path / "made", arrays=arrays, contents=contents, codec=SHIFTED)
    made, latents = everything(tmp_path / "made")
    out, back = tmp_path / "theirs", tmp_path / "back"
    assert main(["encode", str(tmp_path / "made"), "--format", kind, "--out", str(out)]) == 0
    words = ["--codec.autoencoder", "madebyollin/taesd", "--codec.scale", "0.5"]
    words += ["--codec.shift", "0.25", "--records.dtype", "float32", "--out", str(back)]
    if kind == "edm":
        with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:
            for path in sorted(out.rglob("*.*")):
                archive.write(path, path.relative_to(out))
        out = tmp_path / "theirs.zip"
    assert main(["encode", str(out), "--format", kind, *words]) == 0
    found, again = everything(back)
    views = 2 if kind in ("lightning", "mar", "lmdb", "pt") else 1
    assert again.index.arrays == arrays
    if kind in ("mar", "pt"):  # they order images by class
        made = made[np.argsort(latents.labels, kind="stable")]
        assert again.class_names == latents.class_names
    np.testing.assert_allclose(found, made[:, :views], rtol=2e-3, atol=2e-3)
    assert sorted(again.labels.tolist()) == sorted(latents.labels.tolist())


def test_what_is_not_of_the_format_is_refused(tmp_path, capsys):
    store(tmp_path / "made", codec=CODEC)
    one, none = np.float32(1), np.float32(0)
    with pytest.raises(InputError, match=r"--records\.contents sample or mean"):
        export_latents(Latents("s", [tmp_path / "made"]), "npy", tmp_path / "x", one, none)
    (tmp_path / "empty").mkdir()
    kinds = [kind for kind in KINDS if kind not in ("zarr", "lmdb") or find_spec(kind)]
    for kind in (*kinds, "zip"):
        words = ["encode", str(tmp_path / "empty"), "--format", kind, "--out", str(tmp_path / "y")]
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert ("unknown format of latents" if kind == "zip" else f"--format {kind}") in error
    assert not (tmp_path / "y").exists()
