"""From images to a result card: titles, monotone scores, interruptions, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from convflow.evaluation import scores as module
from convflow.evaluation.card import read_card
from convflow.evaluation.detectors import Detector
from convflow.evaluation.evaluate import (
    Subject,
    Target,
    Work,
    evaluate,
    make_reference,
    open_target,
)
from convflow.evaluation.features import part_path
from convflow.evaluation.image_sets import NpzImages, write_samples
from convflow.evaluation.reference import read_reference
from convflow.types import InputError
from tests.evaluation.test_features import RandomImages
from tests.extending.detector import load

CPU = torch.device("cpu")
WORK = Work(CPU, batch_size=16)


@pytest.fixture
def detector():
    return Detector("tiny", "00", "none", load())


@pytest.fixture(scope="module")
def scenes():
    """Smooth images of two kinds: bright above or bright at the left."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 120, 8)
    base = np.stack([np.add.outer(slope, 0 * slope), np.add.outer(0 * slope, slope)])
    kinds = base[np.arange(400) % 2][:, None] + rng.normal(60, 12, (400, 3, 1, 1))
    return (kinds + rng.normal(0, 6, (400, 3, 8, 8))).clip(0, 255).astype(np.uint8)


def subject(pixels, name="x", reproducible=False):
    images = RandomImages(len(pixels), reproducible=reproducible)
    images.pixels = torch.from_numpy(np.ascontiguousarray(pixels))
    images.size = pixels.shape[2:]
    return Subject(images, len(pixels), {"name": name})


def save(path, pixels):
    write_samples(path, [torch.from_numpy(np.ascontiguousarray(pixels))], len(pixels))
    return str(path)


def scored(pixels, real, detector, folder):
    """Scores of images against a reference, without the count in their titles."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = subject(pixels)
    target = open_target(save(folder / "real.npz", real), ours, detector)
    card, _ = evaluate(ours, detector, target, WORK, out=folder / "card.json")
    return {title.rpartition("-")[0]: value for title, value in card.scores.items()}


def test_a_card_says_everything(scenes, detector, tmp_path):
    real = save(tmp_path / "real.npz", scenes[:200])
    ours = subject(scenes[200:])
    card, path = evaluate(
        ours,
        detector,
        open_target(real, ours, detector),
        WORK,
        out=tmp_path / "deep/card.json",
        save_samples=tmp_path / "samples.npz",
    )
    assert read_card(path) == card
    assert list(card.scores) == [
        "FD-200", "sFD-200", "IS-200", "precision-200", "recall-200", "density-200",
        "coverage-200", "KD-200", "KD-std-200",
    ]  # fmt: skip
    assert card.pictures == {"count": 200, "size": [8, 8], "channels": 3, "resize": "none"}
    assert card.detector["name"] == "tiny"
    assert card.reference["count"] == 200
    assert len(card.reference["sha256"]) == len(card.samples_sha256) == 64
    assert card.library["convflow"]
    assert card.machine["device"] == "cpu"
    assert NpzImages(tmp_path / "samples.npz").read(range(200)).equal(ours.images.pixels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "real.npz", "samples.npz"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["card.json"]


def test_identical_sets_are_at_distance_zero(scenes, detector, tmp_path):
    found = scored(scenes, scenes, detector, tmp_path)
    assert found["FD"] == pytest.approx(0, abs=1e-6)
    assert found["sFD"] == pytest.approx(0, abs=1e-6)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


@pytest.mark.parametrize("fault", ["noise", "blur", "dropped"])
def test_more_of_a_fault_gives_a_worse_score(scenes, detector, tmp_path, fault):
    real, fake = scenes[:200], scenes[200:].astype(float)
    rng = np.random.default_rng(1)

    def spoilt(amount):
        if fault == "noise":
            return fake + rng.normal(0, 60 * amount, fake.shape)
        if fault == "blur":
            return fake + amount * (fake.mean((2, 3), keepdims=True) - fake)
        kept = np.arange(200) % 2 == 0  # one of the two kinds
        share = round(100 * amount)
        return np.concatenate([fake[kept], fake[kept][:share], fake[~kept][: 100 - share]])

    found = [
        scored(spoilt(a).clip(0, 255).astype(np.uint8), real, detector, tmp_path / f"{a}")
        for a in (0, 0.5, 1)
    ]
    for title in ("FD", "sFD", "KD"):
        assert found[0][title] < found[1][title] < found[2][title], title
    title = "recall" if fault == "dropped" else "precision"
    assert found[2][title] < found[0][title]


def test_batch_size_does_not_count(scenes, detector, tmp_path):
    cards = []
    for size in (7, 200):
        ours = subject(scenes[200:])
        target = open_target(save(tmp_path / f"{size}.npz", scenes[:200]), ours, detector)
        out = tmp_path / f"{size}.json"
        cards.append(evaluate(ours, detector, target, Work(CPU, size), out=out)[0])
    a, b = (dataclasses.asdict(card) for card in cards)
    assert a["scores"] == pytest.approx(b["scores"], rel=1e-6)
    assert a["samples_sha256"] == b["samples_sha256"]
    assert a["reference"]["sha256"] == b["reference"]["sha256"]


def test_saved_statistics_score_like_the_pictures_themselves(scenes, detector, tmp_path):
    real = subject(scenes[:200], "real")
    make_reference(real, detector, tmp_path / "ref.npz", WORK)
    assert [p.name for p in tmp_path.iterdir()] == ["ref.npz"]
    ours = subject(scenes[200:])
    target = open_target(str(tmp_path / "ref.npz"), ours, detector)
    card, _ = evaluate(ours, detector, target, WORK, out=tmp_path / "a.json")
    direct = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)
    other, _ = evaluate(ours, detector, direct, WORK, out=tmp_path / "b.json")
    assert card.scores == pytest.approx(other.scores, rel=1e-9)
    assert card.reference["name"] == "real"
    assert card.reference["sha256"] == other.reference["sha256"]


def test_a_reference_of_the_adm_suite(scenes, tmp_path):
    detector = Detector("inception", "6726825d12", "x", load())
    rows = detector(torch.from_numpy(scenes[:300]))
    arrays = {"arr_0": scenes[:100].transpose(0, 2, 3, 1)}
    for kind, suffix in (("features", ""), ("spatial", "_s")):
        arrays[f"mu{suffix}"] = rows[kind].double().mean(0).numpy()
        arrays[f"sigma{suffix}"] = rows[kind].double().T.cov().numpy()
    np.savez(tmp_path / "VIRTUAL.npz", **arrays)
    ours = subject(scenes[300:])
    target = open_target(str(tmp_path / "VIRTUAL.npz"), ours, detector)
    card, _ = evaluate(ours, detector, target, WORK, out=tmp_path / "a.json")
    direct = scored(scenes[300:], scenes[:300], detector, tmp_path / "b")
    few = scored(scenes[300:], scenes[:100], detector, tmp_path / "c")
    assert card.scores["FID-100"] == pytest.approx(direct["FID"], rel=1e-6)
    assert card.scores["sFID-100"] == pytest.approx(direct["sFID"], rel=1e-6)
    for title in ("precision", "recall", "density", "coverage"):
        assert card.scores[f"{title}-100"] == pytest.approx(few[title])
    assert card.reference["name"] == "VIRTUAL.npz"


def test_statistics_without_pictures_give_distances_alone(scenes, detector, tmp_path):
    ours = subject(scenes[200:])
    real = subject(scenes[:200], "real")
    make_reference(real, detector, tmp_path / "ref.npz", WORK)
    known = dataclasses.replace(read_reference(tmp_path / "ref.npz"), manifold=None)
    target = Target(known, None, known.about)
    card, _ = evaluate(ours, detector, target, WORK, out=tmp_path / "a.json")
    assert list(card.scores) == ["FD-200", "sFD-200", "IS-200"]


class Interrupted(BaseException):
    """Like SIGKILL, but within the process."""


@pytest.mark.parametrize(("settings", "first"), [(None, 96), ("[" * 5000, 0)])
def test_an_interrupted_evaluation_ends_with_the_same_card(
    scenes, detector, tmp_path, settings, first
):
    """Parts whose settings are damaged are made again."""
    real = save(tmp_path / "real.npz", scenes[:200])

    def go(folder, stop_after=None):
        ours = subject(scenes[200:], reproducible=True)
        read = ours.images.read

        def counted(indices, progress=None):
            if stop_after is not None and len(ours.images.reads) >= stop_after:
                raise Interrupted
            return read(indices, progress)

        ours.images.read = counted
        target = open_target(real, ours, detector)
        _, path = evaluate(ours, detector, target, WORK, out=folder / "card.json")
        return path.read_bytes(), ours.images.reads

    straight, reads = go(tmp_path / "a")
    assert reads == list(range(200))
    with pytest.raises(Interrupted):
        go(tmp_path / "b", stop_after=96)
    assert part_path(tmp_path / "b/card.json.parts/samples", 80).is_file()
    assert not (tmp_path / "b/card.json").exists()
    if settings is not None:
        (tmp_path / "b/card.json.parts/settings.json").write_text(settings)
    again, reads = go(tmp_path / "b")
    assert reads == list(range(first, 200))
    assert again == straight
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["card.json"]


def test_unfinished_work_of_other_settings_is_not_mixed_in(scenes, detector, tmp_path):
    real = save(tmp_path / "real.npz", scenes[:200])
    ours = subject(scenes[200:])
    target = open_target(real, ours, detector)

    def broken(indices, progress=None):
        raise Interrupted

    ours.images.read = broken
    with pytest.raises(Interrupted):
        evaluate(ours, detector, target, WORK, out=tmp_path / "a.json")
    other = subject(scenes[200:], name="y")
    with pytest.raises(InputError, match=r"other settings \(model\.name: 'x', now 'y'\)"):
        evaluate(other, detector, target, WORK, out=tmp_path / "a.json")
    with pytest.raises(InputError, match=r"batch_size: 16, now 8"):
        evaluate(ours, detector, target, Work(CPU, 8), out=tmp_path / "a.json")


def test_a_card_is_never_replaced(scenes, detector, tmp_path):
    ours = subject(scenes[200:])
    target = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(InputError, match=r"got .*a\.json, which is there already"):
        evaluate(ours, detector, target, WORK, out=tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "mine"


def test_the_default_name_tells_evaluations_apart(scenes, detector, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = set()
    for pixels, name in ((scenes[200:], "a b/c"), (scenes[200:], "y"), (scenes[300:], "y")):
        ours = subject(pixels, name)
        target = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)
        names.add(evaluate(ours, detector, target, WORK)[1].name)
    assert len(names) == 3
    assert sorted(name.rpartition("-")[0] for name in names) == [
        "a-b-c-tiny-200", "y-tiny-100", "y-tiny-200"
    ]  # fmt: skip


def test_a_finished_card_answers_for_its_own_metrics(scenes, detector, tmp_path, monkeypatch):
    """Killed after the card is written and before its parts are removed."""
    ours, out = subject(scenes[200:]), tmp_path / "a.json"
    target = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)

    def go(*metrics, **more):
        return evaluate(ours, detector, target, WORK, metrics=metrics, **more)

    with monkeypatch.context() as patch:
        patch.setattr("convflow.evaluation.evaluate.shutil.rmtree", lambda *_, **__: None)
        go("fid", out=out)
    assert (tmp_path / "a.json.parts").is_dir()
    with pytest.raises(InputError, match=r"got .*a\.json, which is there already"):
        go("is", out=out)
    assert go("fid", out=out) == (read_card(out), out)
    assert not (tmp_path / "a.json.parts").exists()
    monkeypatch.chdir(tmp_path)
    names = {go(*metrics)[1].name for metrics in ((), ("fid",), ("is",))}
    assert len(names) == 3


def test_unfinished_features_serve_other_metrics(scenes, detector, tmp_path, monkeypatch):
    ours, out = subject(scenes[200:], reproducible=True), tmp_path / "a.json"
    target = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)
    with monkeypatch.context() as patch:
        patch.setattr("convflow.evaluation.evaluate.score", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(ours, detector, target, WORK, out=out, metrics=["fid"])
    ours.images.reads.clear()
    card, _ = evaluate(ours, detector, target, WORK, out=out, metrics=["is"])
    assert list(card.scores) == ["IS-200"]
    assert ours.images.reads == []


def test_what_cannot_be_computed_is_refused_before_any_picture_is_read(scenes, detector, tmp_path):
    ours = subject(scenes[200:])
    make_reference(subject(scenes[:200], "real"), detector, tmp_path / "ref.npz", WORK)
    known = read_reference(tmp_path / "ref.npz")
    rows = dataclasses.replace(known, manifold=None)
    narrow = dataclasses.replace(known, moments={"features": known.moments["spatial"]})
    pooled = dataclasses.replace(detector, network=lambda x: load()(x)["features"])
    pictures = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)
    cases = [
        (detector, Target(rows, None, {}), ["fid", "kid"], "expected manifold of tiny .* for kid"),
        (pooled, pictures, ["sfid"], "expected spatial of tiny and of the reference for sfid"),
        (pooled, pictures, ["is"], "expected logits of tiny and of the reference for is"),
        (detector, Target(narrow, None, {}), [], "expected 13 features as tiny gives, got .* 16;"),
    ]
    for network, target, names, message in cases:
        with pytest.raises(InputError, match=message):
            evaluate(ours, network, target, WORK, out=tmp_path / "a.json", metrics=names)
    assert ours.images.reads == []
    assert not (tmp_path / "a.json.parts").exists()


def test_too_few_pictures(scenes, detector, tmp_path):
    with pytest.raises(InputError, match="at least 6 images to score, got 1"):
        scored(scenes[:1], scenes[:200], detector, tmp_path / "a")
    with pytest.raises(InputError, match="to score, got 3"):
        scored(scenes[:3], scenes[:200], detector, tmp_path / "b")
    with pytest.raises(InputError, match="in the reference, got 3"):
        scored(scenes[:200], scenes[:3], detector, tmp_path / "c")


def test_a_reference_of_another_size_or_detector(scenes, detector, tmp_path):
    make_reference(subject(scenes[:50]), detector, tmp_path / "ref.npz", WORK)
    small = subject(scenes[:50, :, :4, :6])
    with pytest.raises(InputError, match=r"expected a reference of 4x6 .*got .*ref\.npz of 8x8"):
        open_target(str(tmp_path / "ref.npz"), small, detector)
    with pytest.raises(InputError, match=r"expected images of 4x6 in .*got 8x8"):
        open_target(save(tmp_path / "real.npz", scenes[:50]), small, detector)
    other = dataclasses.replace(detector, sha256="01")
    with pytest.raises(InputError, match=r"with the detector tiny \(sha256 01\)"):
        open_target(str(tmp_path / "ref.npz"), subject(scenes[:50]), other)
    with pytest.raises(InputError, match="holds statistics already"):
        open_target(str(tmp_path / "ref.npz"), subject(scenes[:50]), detector, num=3)


@pytest.mark.parametrize(("name", "k"), [("tiny", 3), ("dinov2", 5), ("dinov2-8bit", 5)])
def test_settings_are_plain_json(scenes, detector, tmp_path, name, k):
    detector = dataclasses.replace(detector, name=name)
    ours = subject(scenes[200:])
    target = open_target(save(tmp_path / "real.npz", scenes[:200]), ours, detector)
    _, path = evaluate(ours, detector, target, WORK, out=tmp_path / "a.json")
    tree = json.loads(path.read_text())
    assert tree["metrics"] == module.CONSTANTS | {"precision_recall_k": k}
    assert tree["detector"]["name"] == name
    assert tree["format"] == 1
