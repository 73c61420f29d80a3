"""Write the pictures that shipped:emoji is trained on: on white, with captions, in three shapes.

    python scripts/emoji.py EMOJI OUT

EMOJI is a folder with `train.parquet`, whose columns are `image` and `caption`. Every picture is
laid on white. Every third one is written once more on a page that is half as wide again, and every
third one on a page that is half as high again, so that a network also sees long sizes.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyarrow.parquet
from PIL import Image

from convflow.cli.main import Parser, wide
from convflow.storage import begin_folder, end_folder
from convflow.types import InputError


def shapes_of(number: int, side: int) -> dict[str, tuple[int, int]]:
    """Return the pages of one picture by name, width x height."""
    longer = side * 3 // 2
    more = [{"wide": (longer, side)}, {"tall": (side, longer)}, {}][number % 3]
    return {"square": (side, side), **more}


def write(source: Path, out: Path) -> int:
    """Write pages and `metadata.jsonl` to a new folder, and return the number of pages.

    Raises:
        InputError: no such table, or a folder that is there.
    """
    table = source / "train.parquet"
    if not table.is_file():
        raise InputError(f"expected a table with images and captions in {table}, found none")
    draft = begin_folder(out)
    lines = list[str]()
    rows = pyarrow.parquet.read_table(table, columns=["image", "caption"]).to_pylist()
    for number, row in enumerate(rows):
        with Image.open(io.BytesIO(row["image"]["bytes"])) as opened:
            picture = opened.convert("RGBA")
        for name, size in shapes_of(number, picture.width).items():
            page = Image.new("RGBA", size, "white")
            page.alpha_composite(
                picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2)
            )
            file = f"{number:04d}-{name}.png"
            page.convert("RGB").save(draft / file)
            lines.append(json.dumps({"file_name": file, "caption": row["caption"]}))
    (draft / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    end_folder(draft, out)
    return len(lines)


def main(arguments: list[str]) -> str:
    """Run the command and return what to say."""
    parser = Parser(prog="scripts/emoji.py", description=__doc__, formatter_class=wide)
    parser.add_argument("emoji", type=Path, help="folder with train.parquet")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse(arguments)
    return f"{write(options.emoji, options.out):,} pictures in {options.out}"


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
