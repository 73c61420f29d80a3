"""A small valid file of every format, and how the library reads it, for `fuzz`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import convflow
from convflow import recipes
from convflow.codecs import PixelCodec
from convflow.data.check import check_images
from convflow.data.selection import Selection
from convflow.data.sources import open_source
from convflow.evaluation import card, features, image_sets, reference
from convflow.evaluation.detectors import Detector, open_detector
from convflow.parallel.shards import Shards, TensorFile, note_rows
from convflow.samplers import multistep
from convflow.settings.read import to_dict
from convflow.storage import write_text
from convflow.training import checkpoint
from convflow.training.config import MonitorConfig
from convflow.training.keys import from_dict
from convflow.training.launch import read_run_config
from convflow.training.monitor import Monitor

CPU = torch.device("cpu")
DETECTOR = Detector("a", "0", "none", lambda images: images.float().flatten(1)[:, :4])
TINY = {"width": 16, "depth": 1, "num_groups": 2, "in_channels": 3, "num_classes": 2}


def folder(kind: str) -> Callable[[Path], None]:
    """Return what fills a folder with three images of a kind in two classes."""

    def make(place: Path) -> None:
        for i, name in enumerate(("a", "b", "c")):
            _picture(i).save(place / f"{name}.{kind}")

    return make


def _picture(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), np.uint8)
    return Image.fromarray(values)


def read_pictures(place: Path) -> None:
    """Look at every image of a folder."""
    _scan(str(place))


def _scan(path: str, memory: Path | None = None) -> None:
    check_images(open_source(path), channels=3, size=(8, 8), memory=memory)


def make_labels(place: Path) -> None:
    """Write images with labels as StyleGAN and EDM store them."""
    folder("png")(place)
    labels = [["a.png", 0], ["b.png", 1], ["c.png", 0]]
    write_text(place / "dataset.json", json.dumps({"labels": labels}))


def make_csv(place: Path) -> None:
    """Write images with labels in a table of comma-separated values."""
    folder("png")(place)
    write_text(place / "metadata.csv", "file_name,label\na.png,x\nb.png,y\nc.png,x\n")


def make_jsonl(place: Path) -> None:
    """Write images with labels as lines of JSON."""
    folder("png")(place)
    rows = (
        {"file_name": f"{name}.png", "label": label}
        for name, label in zip("abc", "xyx", strict=True)
    )
    write_text(place / "metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def make_selection(place: Path) -> None:
    """Write which images a run began with."""
    (place / "data").mkdir()
    folder("png")(place / "data")
    selection = Selection(np.arange(3), np.full((3, 2), 8))
    selection.write(place / "pictures.npz", open_source(str(place / "data")))


def read_selection(place: Path) -> None:
    """Read which images a run began with."""
    Selection.read(place / "pictures.npz", open_source(str(place / "data")))


def make_zip(place: Path) -> None:
    """Write a zip of classes."""
    import zipfile

    with zipfile.ZipFile(place / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, name in enumerate(("x/a", "x/b", "y/c")):
            with archive.open(f"{name}.png", "w") as file:
                _picture(i).save(file, "png")


def read_zip(place: Path) -> None:
    """Look at every image of a zip."""
    _scan(str(place / "p.zip"))


def make_tar(place: Path) -> None:
    """Write a shard of images and labels."""
    import io
    import tarfile

    with tarfile.open(place / "p.tar", "w") as archive:
        for i in range(3):
            _picture(i).save(whole := io.BytesIO(), "png")
            for kind, content in (("png", whole.getvalue()), ("cls", b"%d" % (i % 2))):
                info = tarfile.TarInfo(f"{i}.{kind}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def read_tar(place: Path) -> None:
    """Look at every image of a shard."""
    _scan(str(place / "p.tar"))


def make_arrays(place: Path) -> None:
    """Write decoded images, with labels and without."""
    pixels = np.stack([np.asarray(_picture(i)) for i in range(3)])
    np.savez(place / "p.npz", arr_0=pixels, arr_1=[0, 1, 0])
    np.save(place / "p.npy", pixels)


def read_npz(place: Path) -> None:
    """Look at every image of several arrays."""
    _scan(str(place / "p.npz"))


def read_npy(place: Path) -> None:
    """Look at every image of one array."""
    _scan(str(place / "p.npy"))


def make_parquet(place: Path) -> None:
    """Write a table of images and labels."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = []
    for i in range(3):
        _picture(i).save(whole := io.BytesIO(), "png")
        cells.append({"bytes": whole.getvalue(), "path": None})
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 0]}), place / "p.parquet")


def read_parquet(place: Path) -> None:
    """Look at every image of a table."""
    _scan(str(place / "p.parquet"))


def make_scan(place: Path) -> None:
    """Remember a look at images."""
    (place / "data").mkdir()
    folder("png")(place / "data")
    _scan(str(place / "data"), place / "look")


def read_scan(place: Path) -> None:
    """Look again, with whatever of the memory is of use.

    A copy of the images is not what was looked at, so the memory gets the name it is sought by.
    """
    (old,) = (place / "look").glob("*.npz")
    source = open_source(str(place / "data"))
    content = old.read_bytes()
    check_images(source, channels=3, size=(8, 8), memory=place / "look")
    for path in (place / "look").glob("*.npz"):
        path.write_bytes(content)
    check_images(source, channels=3, size=(8, 8), memory=place / "look")


def make_model(place: Path) -> None:
    """Write a model folder."""
    model = convflow.create_model("flowdcn", **TINY)
    convflow.Pipeline(model, PixelCodec(), (8, 8), ("a", "b"), device="cpu").save_pretrained(place)


def read_model(place: Path) -> None:
    """Load a network."""
    convflow.load_model(place)


def read_pipeline(place: Path) -> None:
    """Load a pipeline."""
    convflow.Pipeline.from_pretrained(place, device="cpu")


def make_table(place: Path) -> None:
    """Write the table of a searched solver."""
    multistep.write_table(
        place / "steps_2.json", multistep.CoefficientTable((0.0, 0.4, 1.0), ((1.0,), (-0.5, 1.5)))
    )


def read_table(place: Path) -> None:
    """Read such a table and use it."""
    multistep.read_table(place / "steps_2.json")


def make_run(place: Path) -> None:
    """Write what a run says of itself."""
    import json

    config = to_dict(recipes.create_config("pictures.flowdcn"))
    write_text(place / "config.json", json.dumps(config))
    step = checkpoint.folder_of(place, 3)
    step.mkdir(parents=True)
    write_text(step / "state.json", json.dumps({"step": 3, "images_seen": 12, "config": config}))


def read_run(place: Path) -> None:
    """Read it."""
    read_run_config(place)
    from_dict(checkpoint.read_state(checkpoint.folder_of(place, 3))["config"])


def make_shards(place: Path) -> None:
    """Write the shards of two processes."""
    for rank in range(2):
        rows = {"a.weight": torch.ones(2, 3), "step": torch.tensor(3.0)}
        first = {"a.weight": [2 * rank, 0], "step": []}
        if rank:  # what is not cut has one process alone
            del rows["step"], first["step"]
        file = TensorFile(f"shard-{rank}.safetensors", rows, note_rows(first))
        file.write(place / "shards")


def read_shards(place: Path) -> None:
    """Read what the shards hold together."""
    shards = Shards(place / "shards")
    shards.read([*shards.shapes])


def make_metrics(place: Path) -> None:
    """Write the record of a run."""
    write_text(
        place / "metrics.jsonl",
        "".join(f'{{"step": {i}, "images": {4 * i}, "loss": 1.5}}\n' for i in range(1, 5)),
    )


def read_metrics(place: Path) -> None:
    """Go on with it."""
    Monitor(place, MonitorConfig(tensorboard=False), 3, 12, 100).close()


def make_weights(zipped: bool) -> Callable[[Path], None]:
    """Return what writes a state dict in torch's newer or older format."""

    def make(place: Path) -> None:
        state = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}
        torch.save(
            {"model": state, "step": 3}, place / "w.pt", _use_new_zipfile_serialization=zipped
        )

    return make


def read_weights(place: Path) -> None:
    """Say what such a file holds."""
    from convflow.models.convert import describe_weights

    describe_weights(place / "w.pt")


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.float().mean((2, 3)))


def make_program(place: Path) -> None:
    """Export a detector."""
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    program = torch.export.export(
        _Network(), (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    torch.export.save(program, place / "d.pt2")


def read_program(place: Path) -> None:
    """Use it."""
    detector = open_detector(str(place / "d.pt2"), device=CPU)
    detector(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))


def _save(compressed: bool, path: Path, **arrays: np.ndarray) -> None:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[arg-type]


def make_reference(compressed: bool) -> Callable[[Path], None]:
    """Return what writes statistics."""

    def make(place: Path) -> None:
        path, detector = place / "r.npz", {"name": "a", "sha256": "0"}
        about = {"name": "x", "sha256": "0", "count": 5, "size": [8, 8], "channels": 3}
        moments = reference.Moments(torch.zeros(4), torch.eye(4))
        whole = reference.Reference(
            {"features": moments, "spatial": moments},
            torch.ones(5, 4),
            about | {"detector": detector},
        )
        whole.save(path)
        with np.load(path) as file:
            arrays = dict(file)
        _save(compressed, path, **arrays)

    return make


def read_reference(place: Path) -> None:
    """Read statistics and see whether they fit."""
    path = place / "r.npz"
    reference.holds_statistics(path)
    found = reference.read_reference(path)
    reference.check_fits(found, str(path), {"name": "a", "sha256": "0"}, (8, 8), 3)


def make_samples(compressed: bool) -> Callable[[Path], None]:
    """Return what writes samples as an .npz."""

    def make(place: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
        _save(compressed, place / "s.npz", arr_0=pixels)

    return make


def read_samples(place: Path) -> None:
    """Read them all."""
    found = image_sets.NpzImages(place / "s.npz")
    found.read(range(len(found)))


def make_card(place: Path) -> None:
    """Write a result card."""
    made: dict[str, Any] = {
        name: {"name": "a", "count": 5}
        for name in ("model", "pictures", "detector", "reference", "metrics", "library", "machine")
    }
    card.Card(**made, sampling=None, scores={"FID": 3.0}).write(place / "card.json")


def read_card(place: Path) -> None:
    """Read and compare it."""
    path = place / "card.json"
    card.read_card(path).table()
    card.compare_cards([path, path])


class _Pictures:
    reproducible, size, channels = True, (8, 8), 3

    def __len__(self) -> int:
        return 4

    def read(self, indices: Any, progress: Any = None) -> Tensor:
        return torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)

    def describe(self) -> dict[str, Any]:
        return {}


def make_features(place: Path) -> features.Features:
    """Bring features to a folder, those parts that are not there."""
    return features.extract(
        _Pictures(),
        4,
        DETECTOR,
        place,
        batch_size=2,
        device=CPU,  # type: ignore[arg-type]
    )


def read_features(place: Path) -> None:
    """Go on with such a folder."""
    found = make_features(place)
    rows = found.summarise(asdict(MonitorConfig())).manifold
    assert rows is not None
    assert rows.shape == (4, 4)
