"""Folders, archives and tables of images that tests of the data make."""

import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convflow.data.sources import open_source
from convflow.types import InputError


def save(path, level=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (level, level, level)).save(path, **options)


def level(source, index):
    return int(np.asarray(source.read(index)).reshape(-1)[0])


def refuse(path, *words, split="train", **options):
    with pytest.raises(InputError) as caught:
        open_source(str(path), split, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(("expected", "--data.labels: ", "label-column: "))
    for word in words:
        assert word in message, message


def labelled(source):
    """Class name of each item; empty where there are no classes."""
    names = source.class_names or ("",)
    return {source.item_name(i): names[source.label(i)] for i in range(len(source))}


def pack(path, folder, root="", sep="/"):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                name = root + file.relative_to(folder).as_posix()
                info = zipfile.ZipInfo("x")
                info.filename = name.replace("/", sep)  # as other systems write it
                archive.writestr(info, file.read_bytes())
    return path


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))


def png(level):
    buffer = io.BytesIO()
    Image.new("L", (5, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, labels=None, *, count=7, first=0, raw=False, names=None, rows=3, column="image"):
    cells = [png(first + i) for i in range(count)]
    if not raw:
        cells = [{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)]
    columns = {column: cells} | ({} if labels is None else {"label": labels})
    table = pa.table(columns)
    if names is not None:
        feature = {"label": {"names": names, "_type": "ClassLabel"}}
        note = json.dumps({"info": {"features": feature}})
        table = table.replace_schema_metadata({"huggingface": note})
    pq.write_table(table, path, row_group_size=rows)
    return path


def levels(source):
    return [int(np.asarray(source.read(i))[0, 0]) for i in range(len(source))]


def labels_of(source):
    return [source.label(i) for i in range(len(source))]


def rows(path, **columns):
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"image": [png(i) for i in range(count)], **columns}), path)
    return str(path)


def tar(path, **files):
    """A tar of names, in which __ stands for a slash and _ for a dot, and their bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_", "."))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def everywhere(folder, place):
    """Every kind of source with the labelled grey pictures of a folder, by name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = [f"{i:05}" for i in range(len(files))]
    contents, labels = [file.read_bytes() for file in files], [file.parent.name for file in files]
    classes = sorted(set(labels))
    numbers = [classes.index(label) for label in labels]
    flat = {kind: place / kind for kind in ("imagefolder", "listed", "edm")}
    captions = [f"a {label}" for label in labels]
    shutil.copytree(folder, place / "texts")
    for file, caption in zip(files, captions, strict=True):
        text = place / "texts" / file.relative_to(folder).with_suffix(".txt")
        text.write_text(f"{caption}\n")
    for kind in flat:
        for name, content in zip(names, contents, strict=True):
            (place / kind / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
            (place / kind / f"{name}.png").write_bytes(content)
    pairs = [(f"{name}.png", label) for name, label in zip(names, labels, strict=True)]
    lines = [json.dumps({"file_name": f, "caption": f"a {c}", "label": c}) for f, c in pairs]
    (flat["imagefolder"] / "metadata.jsonl").write_text("\n".join(lines))
    (flat["listed"] / "some.jsonl").write_text("\n".join(lines))
    table = "\n".join(["picture,kind,said", *(f"{f},{c},a {c}" for f, c in pairs)])
    (flat["listed"] / "some.csv").write_text(table)
    both = [[f, n] for (f, _), n in zip(pairs, numbers, strict=True)]
    (flat["edm"] / "dataset.json").write_text(json.dumps({"labels": both}))
    for shard in range(3):
        rows = [i for i in range(len(files)) if 3 * i // len(files) == shard]
        texts = [label.encode() for label in labels], [caption.encode() for caption in captions]
        kinds = {"_png": contents, "_cls": texts[0], "_txt": texts[1]}
        members = {names[i] + kind: of[i] for i in rows for kind, of in kinds.items()}
        tar(place / f"shards/x-{shard:03}.tar", **members)
    with tarfile.open(place / "folder.tar", "w") as archive:
        archive.add(folder, "pets")
    count = len(files) // 2
    write_rows(place / "table.parquet", contents, numbers, classes)
    for part, rows in enumerate((slice(count), slice(count, None))):
        path = place / f"tables/train-{part:05}-of-00002.parquet"
        path.parent.mkdir(exist_ok=True)
        write_rows(path, contents[rows], numbers[rows], classes)
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    texts = np.array(captions)
    np.savez(place / "arrays.npz", arr_0=pixels, arr_1=np.array(labels), captions=texts)
    np.savez_compressed(place / "packed.npz", pictures=pixels[..., None], kinds=np.array(numbers))
    np.save(place / "array.npy", pixels)
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)}
    cells = [{"bytes": content, "path": None} for content in contents]
    kinds["text"] = datasets.Value("string")
    columns = {"image": cells, "label": numbers, "text": captions}
    datasets.Dataset.from_dict(columns, datasets.Features(kinds)).save_to_disk(place / "saved")
    return {
        "zip": [pack(place / "pets.zip", folder)],
        "EDM": [pack(place / "edm.zip", flat["edm"])],
        "imagefolder": [flat["imagefolder"]],
        "texts": [place / "texts"],
        "CSV": [
            flat["listed"] / "some.csv",
            *("image_column=picture", "label_column=kind", "caption_column=said"),
        ],
        "JSONL": [flat["listed"] / "some.jsonl"],
        "tar": [place / "folder.tar"],
        "shards": [place / "shards"],
        "pattern": [place / "shards/x-{000..002}.tar"],
        "parquet": [place / "table.parquet"],
        "tables": [place / "tables"],
        "hf": [f"hf:{place / 'saved'}"],
        "npz": [place / "arrays.npz"],
        "packed": [place / "packed.npz", "image_column=pictures", "label_column=kinds"],
        "npy": [place / "array.npy"],
    }


def write_rows(path, contents, labels, names):
    feature = {"label": {"names": names, "_type": "ClassLabel"}}
    cells = [{"bytes": content, "path": None} for content in contents]
    captions = [f"a {names[label]}" for label in labels]
    table = pa.table({"image": cells, "label": labels, "caption": captions})
    note = json.dumps({"info": {"features": feature}})
    table = table.replace_schema_metadata({"huggingface": note})
    pq.write_table(table, path, row_group_size=4)
