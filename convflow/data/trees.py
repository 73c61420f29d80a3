"""Images among the files of a folder or an archive: those of the split, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from convflow.class_names import composed
from convflow.data.captions import Captions, Say, by_path, captions_beside
from convflow.data.class_ids import (
    Choice,
    LabelSet,
    from_folders,
    from_names,
    offer_names,
    unconditional,
)
from convflow.data.formats import decoders, is_image, unread
from convflow.data.label_files import (
    Listing,
    choose_listed,
    from_listings,
    is_label_file,
    read_listings,
    sentences,
)
from convflow.data.splits import SplitFiles, choose_part
from convflow.types import InputError


class Tree(NamedTuple):
    """What is known of the images among files."""

    part: SplitFiles
    labels: LabelSet
    notes: tuple[str, ...]
    """Sentences about it."""
    caption: Say | None
    """Index to what is said of the image; None where nothing is said of any."""


def understand(
    name: str,
    files: Sequence[str],
    split: str,
    choice: Choice,
    read: Callable[[str], bytes],
    listing: Listing | None = None,
    chosen: bool = False,
    silent: Collection[str] = (),
    wanted: Callable[[str], bool] = is_image,
) -> Tree:
    """Return which of the files are images of the split, their labels and captions.

    Args:
        name: What the user gave.
        files: Paths of all files with forward slashes.
        split: Which part, as `open_source` takes it.
        choice: What the user says about labels.
        read: Path to bytes.
        listing: What is known of the labels beside what files of labels say.
        chosen: Whether the files are those of the split already.
        silent: Files that are read already.
        wanted: Whether a file is one of the images, or of what stands in their place.

    Raises:
        InputError: No images, no such split, or labels that cannot be used.
    """
    image_files = sorted(filter(wanted, files))
    if not image_files:
        said = "".join(f": {sentence}" for sentence in unread(files)[:1])
        raise InputError(
            f"expected images ({' '.join(decoders())}) in {name}, got none among "
            f"{len(files)} files{said}; give a folder of images or of class folders"
        )
    everything, label_files = set(image_files), list(filter(is_label_file, files))
    listings = read_listings(label_files, image_files, read, choice._replace(source="none"))
    listings += [listing] if listing else []
    listed = choose_listed(listings, image_files, name, split)
    if listed is not None:
        image_files = listed[0]
    part = choose_part(image_files, name, split, choice.source, chosen=chosen or listed is not None)
    part = part._replace(notes=(*(listed[1] if listed else ()), *part.notes))
    labels = _labels(name, files, part, choice, read, listing)
    tables = choice.source in ("auto", "table")
    left = everything.symmetric_difference(files).difference(label_files if tables else ())
    captions = _captions(name, files, part.files, choice, read, listings)
    told = (captions.note,) if captions else ()
    left = left.difference(silent, captions.files if captions else ())
    notes = (*part.notes, *labels.notes, *told, *unread(left))
    return Tree(part, labels, notes, captions and captions.say)


def _captions(
    name: str,
    files: Sequence[str],
    image_files: Sequence[str],
    choice: Choice,
    read: Callable[[str], bytes],
    listings: Sequence[Listing],
) -> Captions | None:
    """Captions from files of labels, or else from a file beside each image."""
    told = [listing for listing in listings if listing.captions is not None]
    if told:
        folders = {
            composed(each.file.rpartition("/")[0]): each.captions or {} for each in reversed(told)
        }
        note = f"captions from column `{told[0].caption_column}` of {told[0].file}"
        return Captions(by_path(folders, image_files), note)
    beside = captions_beside(files, image_files, read, choice.caption_column)
    if beside is None and choice.caption_column:
        raise InputError(
            f"caption-column: expected a table or .json files with {choice.caption_column!r} in "
            f"{name}, got none; leave it out"
        )
    return beside


def _labels(
    name: str,
    files: Sequence[str],
    part: SplitFiles,
    choice: Choice,
    read: Callable[[str], bytes],
    listing: Listing | None,
) -> LabelSet:
    """Labels from where the user says, or from a file of labels, or else from folders."""
    if choice.source in ("auto", "table"):
        guess = choice.source == "table" or not any(part.folders)
        listings = [listing] if listing else []
        listings += read_listings(files, part.files, read, choice, guess)
        found = from_listings(listings, part.files, files, name)
        if found is not None:
            return found
        said = sentences(listings)
        if choice.source == "table" or choice.label_column or choice.image_column:
            got = "; ".join(said) or "none"
            raise InputError(
                f"expected a file with labels (dataset.json, metadata.csv or metadata.jsonl) in "
                f"{name}, got {got}; add one, or leave --data.labels and the columns out"
            )
        found = from_folders(part.folders, name)
        offered = () if found.class_names else offer_names(part.files)
        return found._replace(notes=(*found.notes, *offered, *said))
    if choice.label_column or choice.image_column:
        raise InputError(
            f"expected a table for the column {choice.label_column or choice.image_column}, got "
            f"the images of {name} without one (labels: {choice.source}); leave the column out"
        )
    if choice.source == "folders":
        return from_folders(part.folders, name)
    if choice.source == "names":
        return from_names(part.files, name)
    return unconditional(len(part.files), "as --data.labels none says")
