"""Folders, archives and tables of images that tests of the data make."""

import io
import json
import os
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
