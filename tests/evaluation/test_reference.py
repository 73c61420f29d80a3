"""Reference statistics: our files, those of the ADM suite, and those that do not fit."""

import numpy as np
import pytest
import torch

from convflow.evaluation.reference import (
    Moments,
    Reference,
    check_fits,
    holds_statistics,
    read_reference,
)
from convflow.types import InputError

DETECTOR = {"name": "inception", "sha256": "12", "resize": "x", "precision": "float32"}


def moments(width, seed=0):
    rows = torch.from_numpy(np.random.default_rng(seed).normal(size=(20, width)))
    return Moments(rows.mean(0), rows.T.cov())


@pytest.fixture
def reference():
    manifold = torch.arange(12.0).view(4, 3)
    about = {"name": "train", "sha256": "ab", "size": [8, 6], "channels": 3, "detector": DETECTOR}
    return Reference({"features": moments(3), "spatial": moments(5)}, manifold, about)


def adm(path, **more):
    mean, covariance = moments(3)
    spatial_mean, spatial_covariance = moments(5)
    arrays = {
        "mu": mean.numpy().astype(np.float32),
        "sigma": covariance.numpy(),
        "mu_s": spatial_mean.numpy(),
        "sigma_s": spatial_covariance.numpy(),
        "arr_0": np.zeros((2, 8, 6, 3), np.uint8),
    } | more
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_round_trip(reference, tmp_path):
    path = tmp_path / "deep/a.npz"
    reference.save(path)
    assert holds_statistics(path)
    again = read_reference(path)
    assert again.about == reference.about
    assert again.manifold.equal(reference.manifold)
    assert not again.has_images
    for kind, (mean, covariance) in reference.moments.items():
        assert again.moments[kind].mean.equal(mean)
        assert again.moments[kind].covariance.equal(covariance)


def test_our_file_has_the_names_of_the_adm_suite(reference, tmp_path):
    reference.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert {"mu", "sigma", "mu_s", "sigma_s"} <= set(file.files)
        assert file["sigma_s"].dtype == np.float64


def test_a_file_of_the_adm_suite(tmp_path):
    reference = read_reference(adm(tmp_path / "a.npz"))
    assert set(reference.moments) == {"features", "spatial"}
    assert reference.moments["features"].mean.dtype == torch.float64
    assert reference.manifold is None
    assert reference.has_images
    assert reference.about["name"] == "a.npz"
    assert len(reference.about["sha256"]) == 64
    check_fits(reference, "a.npz", DETECTOR, (8, 6), 3)


def test_statistics_alone_are_enough(tmp_path):
    reference = read_reference(adm(tmp_path / "a.npz", mu_s=None, sigma_s=None, arr_0=None))
    assert list(reference.moments) == ["features"]
    assert not reference.has_images


def test_pictures_alone_are_no_statistics(tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    assert not holds_statistics(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": np.zeros((3, 4))}, r"expected mu \(F,\) and sigma \(F, F\), got .*\(3, 4\)"),
        ({"sigma": None}, r"got \(3,\) and \(0,\)"),
        ({"mu_s": np.zeros((1, 5))}, r"expected mu_s"),
        ({"mu": np.array([0, np.nan, 0])}, "NaN or infinity"),
        ({"features": np.zeros((4, 2), np.float32)}, r"expected features \(M, 3\), got \(4, 2\)"),
        ({"about": np.array("no json")}, "damaged"),
        ({"mu": np.array([{}] * 3)}, "damaged"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_reference(adm(tmp_path / "a.npz", **change))


def test_damaged_and_missing_files(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"a\.npz is damaged or no \.npz"):
        holds_statistics(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no such file"):
        holds_statistics(tmp_path / "b.npz")
    whole = adm(tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_reference(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("detector", "size", "message"),
    [
        (DETECTOR | {"sha256": "13"}, (8, 6), r"expected .*\(sha256 13\), got ref of inception"),
        (DETECTOR | {"name": "dinov2"}, (8, 6), "detector dinov2"),
        (
            DETECTOR,
            (6, 8),
            "expected a reference of 6x8 like the images to score, got ref of 8x6",
        ),
    ],
)
def test_another_detector_or_size_is_refused(reference, detector, size, message):
    check_fits(reference, "ref", DETECTOR, (8, 6), 3)
    with pytest.raises(InputError, match=message):
        check_fits(reference, "ref", detector, size, 3)


def test_grey_and_colour_are_not_compared(reference):
    with pytest.raises(InputError, match="with 1 channels like those to score, got ref with 3"):
        check_fits(reference, "ref", DETECTOR, (8, 6), 1)


def test_a_file_made_elsewhere_is_for_inception(tmp_path):
    reference = read_reference(adm(tmp_path / "a.npz"))
    with pytest.raises(InputError, match="detector dinov2"):
        check_fits(reference, "a.npz", DETECTOR | {"name": "dinov2"}, (8, 6), 3)


def test_a_full_disk_leaves_nothing(reference, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InputError, match="No space left"):
        reference.save(tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
