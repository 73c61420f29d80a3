"""Which files are images: endings that are read, Pillow's decoders, endings that are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache

from PIL import features

_ENDINGS = {
    "JPEG": ".jpg .jpeg .jpe .jfif .jif",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "BMP": ".bmp .dib",
    "TIFF": ".tif .tiff",
    "GIF": ".gif",
    "PPM": ".ppm .pgm .pbm .pnm",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif",
    "TGA": ".tga",
}
"""Endings by Pillow's name of the format. No format is here whose decoder starts programs (EPS)."""

_OPTIONAL = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
"""What Pillow calls the library behind a format that it may have been built without."""

FIRST_READ = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""The only endings that were read until version 0.2, whose runs may still go on."""

UNSUPPORTED = frozenset(
    ".3fr .ai .arw .avifs .cr2 .cr3 .crw .dcm .dds .dng .emf .eps .erf .exr .fits .hdr .heic "
    ".heics .heif .heifs .hif .icns .ico .jls .jng .jxl .jxr .mng .mos .mpo .nef .nrw .orf .pam "
    ".pcd .pcx .pef .pfm .pict .psb .psd .qoi .raf .raw .rw2 .sgi .sr2 .srw .svg .svgz .wdp .wmf "
    ".xcf .xpm".split()
)
"""Endings of images that are not read."""


@cache
def decoders() -> tuple[str, ...]:
    """Pillow's names of the formats that may be decoded, those alone that it can read here."""
    built = {*features.modules, *features.codecs}
    return tuple(
        kind
        for kind in _ENDINGS
        if kind not in _OPTIONAL or (_OPTIONAL[kind] in built and features.check(_OPTIONAL[kind]))
    )


@cache
def endings() -> tuple[str, ...]:
    """Endings of the images that are read, in small letters with a dot."""
    return tuple(ending for kind in decoders() for ending in _ENDINGS[kind].split())


def is_image(file: str) -> bool:
    """Whether a file is read as an image, by its name."""
    return file.lower().endswith(endings())


def newly_read(files: Iterable[str]) -> dict[str, int]:
    """How many images have each ending that was not read until version 0.2."""
    counts = Counter(_ending(file) for file in files if is_image(file))
    return {ending: counts[ending] for ending in sorted(counts) if ending not in FIRST_READ}


def unread(files: Iterable[str]) -> tuple[str, ...]:
    """Sentences about files that are not read: how many of which ending, images apart.

    >>> unread(["a/readme.txt", "b.txt", "c.HEIC"])
    ('1 image is in an unsupported format: 1 heic; convert it to PNG or JPEG', \
'2 files are not read: 2 txt')
    """
    counts = Counter(_ending(file) for file in files)
    known = UNSUPPORTED | {ending for text in _ENDINGS.values() for ending in text.split()}
    unsupported = {ending: counts[ending] for ending in counts if ending in known}
    others = {ending: counts[ending] for ending in counts if ending not in known}
    sentences = []
    if number := sum(unsupported.values()):
        start = "1 image is in an" if number == 1 else f"{number:,} images are in an"
        cure = "it" if number == 1 else "them"
        sentences.append(
            f"{start} unsupported format: {_listed(unsupported)}; convert {cure} to PNG or JPEG"
        )
    if number := sum(others.values()):
        start = "1 file is not read" if number == 1 else f"{number:,} files are not read"
        sentences.append(f"{start}: {_listed(others)}")
    return tuple(sentences)


def _ending(file: str) -> str:
    stem, dot, ending = file.rpartition("/")[2].rpartition(".")
    return dot + ending.lower() if stem and 0 < len(ending) <= 12 else ""


def _listed(counts: dict[str, int]) -> str:
    """The most frequent endings with their numbers."""
    rows = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    shown = [f"{number:,} {ending[1:] or 'without an ending'}" for ending, number in rows[:8]]
    return ", ".join([*shown, "..."] if len(rows) > 8 else shown)
