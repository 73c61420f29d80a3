"""The source of clips: videos of a folder, each cut into pieces of as many frames as are wanted."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convflow.data.animations import ANIMATION_ENDINGS
from convflow.data.class_ids import Choice
from convflow.data.files import MAX_PIXELS, read_regular
from convflow.data.formats import is_image
from convflow.data.source import Stamp, StoredSource, natural_key, stamp_of
from convflow.data.timeline import Clips, Timeline, frames_of, num_clips
from convflow.data.trees import understand
from convflow.data.video_files import FILM_ENDINGS
from convflow.data.video_index import INDEX_FORMAT, Video, index_videos
from convflow.data.walk import walk
from convflow.hub import assets
from convflow.types import InputError, Size

VIDEO_ENDINGS = (*FILM_ENDINGS, *ANIMATION_ENDINGS)
"""Endings of the files that are read as videos, in small letters."""

_PLAIN, _ONE_FRAME = Choice(), Clips(1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # spreads the numbers of clips over the marks


@dataclass
class StoredClips(StoredSource):
    """Clips of stored videos, by index: those of a video stand side by side.

    A video that cannot be used, or is too short, counts as one clip whose reading says why.

    Args:
        folder: Of the videos.
        films: The videos below it.
        timelines: Of each video, or why nothing can be read of it.
        clips: How clips are taken.
    """

    folder: Path = Path()
    films: Sequence[Video] = ()
    timelines: Sequence[Timeline | str] = ()
    clips: Clips = _ONE_FRAME
    videos: bool = True

    def __post_init__(self) -> None:
        self._problems = dict[int, str]()
        counts = [self._count(index) for index in range(len(self.films))]
        self._ends = np.cumsum(counts).tolist()
        self._counts = counts
        self.labels = np.repeat(np.asarray(self.labels, np.int64), counts)
        say = self.caption
        if say is not None:
            self.caption = lambda index: say(self._place(index)[0])

    def _count(self, video: int) -> int:
        timeline = self.timelines[video]
        try:
            if isinstance(timeline, str):
                raise InputError(timeline)
            return num_clips(timeline, self.clips)
        except InputError as error:
            self._problems[video] = str(error)
            return 1

    def _place(self, index: int) -> tuple[int, int]:
        """Which video a clip is of, and which of its clips."""
        video = bisect_right(self._ends, index)
        return video, index - (self._ends[video] - self._counts[video])

    def item_name(self, index: int) -> str:
        """File of the clip, and its first frame where the file has several clips."""
        video, number = self._place(int(index))
        name, timeline = self.films[video].name, self.timelines[video]
        if self._counts[video] == 1 or isinstance(timeline, str):
            return name
        return f"{name} from frame {frames_of(timeline, self.clips, number)[0]}"

    def read(  # type: ignore[override]
        self, index: int, side: int | None = None, start: float | None = None
    ) -> np.ndarray:
        """The clip as (F, H, W, 3) uint8, upright, in the size of its file.

        Args:
            index: In [0, N).
            side: Taken for the sake of other sources; nothing is decoded at a part of its size.
            start: Where a clip that may begin anywhere does, in [0, 1); None for the middle.

        Raises:
            InputError: It cannot be read; the message names it.
        """
        video, number = self._place(int(index))
        timeline, place = self._timeline(video), 0.5 if start is None else start
        wanted = frames_of(timeline, self.clips, number, place if starts_anywhere(self) else None)
        try:
            return self.films[video].read(self.folder, timeline, wanted, self.max_pixels)
        except InputError as error:
            raise InputError(f"{self.item_name(index)}: {error}") from error

    def header(self, index: int) -> tuple[str, Size]:
        """What clips are called where pictures have a mode, and height and width in pixels."""
        timeline = self._timeline(self._place(int(index))[0])
        return "video", (timeline.height, timeline.width)

    def _timeline(self, video: int) -> Timeline:
        timeline, problem = self.timelines[video], self._problems.get(video)
        if problem is not None or isinstance(timeline, str):
            raise InputError(f"{self.films[video].name}: {problem}")
        return timeline


def starts_anywhere(source: object) -> bool:
    """Whether reading a source is to be told where in a video the clip begins."""
    return isinstance(source, StoredClips) and source.clips.start == "random"


def open_clips(
    path: str,
    clips: Clips,
    split: str = "train",
    choice: Choice = _PLAIN,
    max_pixels: int = MAX_PIXELS,
) -> StoredClips:
    """Return the clips of a video file, or of all videos below a folder.

    Videos are files by their endings, and folders with one picture a frame, in natural order of
    their names; pictures beside video files are not read. Splits, labels and captions are those of
    folders of pictures.

    Args:
        path: Of a file or a folder.
        clips: How clips are taken from a video.
        split: As `open_source` takes it.
        choice: What the user says about labels.
        max_pixels: Frames of more are refused.

    Raises:
        InputError: There is no video, or no such split.
    """
    folder, videos, others, notes = _look(path)
    tree = understand(
        path,
        [*videos, *others],
        split,
        choice,
        lambda file: read_regular(folder / file),
        wanted=videos.__contains__,
    )
    chosen = [videos[name] for name in tree.part.files]
    marks = _marks(folder, chosen)
    timelines = index_videos(folder, chosen, marks, _memory(folder, max_pixels), max_pixels)
    source = StoredClips(
        path,
        tree.labels.class_names,
        tree.labels.ids,
        describe=lambda index: "",
        fetch=lambda index: b"",
        notes=(f"{_counted_videos(chosen)}, in clips of {_shown(clips)}", *tree.notes, *notes),
        max_pixels=max_pixels,
        head=lambda index, num: b"",
        caption=tree.caption,
        folder=folder,
        films=chosen,
        timelines=timelines,
        clips=clips,
    )
    source.stamp = lambda: _stamp(source, folder)
    return source


def _memory(folder: Path, max_pixels: int) -> Path | None:
    """The file that remembers the index of a folder, None where nothing may be written."""
    known = repr((INDEX_FORMAT, "videos", str(folder.absolute()), max_pixels))
    looks = assets("looks")
    return looks and looks / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.npz"


def _counted_videos(videos: Sequence[Video]) -> str:
    folders = sum(1 for each in videos if each.frames)
    parts = ((len(videos) - folders, "video file"), (folders, "folder of frames"))
    return " and ".join(_counted(count, noun) for count, noun in parts if count)


def _counted(count: int, noun: str) -> str:
    first, _, rest = noun.partition(" of ")
    several = f"{first}{'s' if count != 1 else ''}"
    return f"{count:,} {several} of {rest}" if rest else f"{count:,} {several}"


def _shown(clips: Clips) -> str:
    rate = f" at {clips.fps:g} a second" if clips.fps else ""
    stride = f", every {clips.stride} frames" if clips.stride > 1 else ""
    anywhere = ", from anywhere" if clips.start == "random" else ""
    return f"{clips.frames} frames{rate}{stride}{anywhere}"


def _look(path: str) -> tuple[Path, dict[str, Video], list[str], tuple[str, ...]]:
    """The folder of a path, the videos in it by name, other files, and sentences about them."""
    place = Path(path).expanduser()
    folder, files, notes = place.parent, [place.name], tuple[str, ...]()
    if place.is_dir():
        folder, (files, notes) = place, walk(place)
    videos, others = _videos(files)
    if not videos:
        raise InputError(
            f"expected videos ({' '.join(VIDEO_ENDINGS)}) or folders of frames in {path}, got none "
            f"among {len(files)} files; give a folder of videos or of class folders"
        )
    return folder, videos, others, notes


def _videos(files: Sequence[str]) -> tuple[dict[str, Video], list[str]]:
    """Videos by name, and the files that belong to none."""
    pictures, videos, others = defaultdict[str, list[str]](list), dict[str, Video](), list[str]()
    for file in files:
        above, _, name = file.rpartition("/")
        if name.lower().endswith(VIDEO_ENDINGS):
            videos[file] = Video(file)
        elif is_image(name):
            pictures[above].append(name)
        else:
            others.append(file)
    beside = {name.rpartition("/")[0] for name in videos}
    for above, names in pictures.items():
        if above in beside:
            others += [f"{above}/{name}" if above else name for name in names]
        else:
            frames = tuple(sorted(names, key=natural_key))
            videos[above or "."] = Video(above or ".", frames)
    return videos, others


def _marks(folder: Path, videos: Sequence[Video]) -> np.ndarray:
    """(N,) uint64, another where a video may be another."""
    marks = []
    for video in videos:
        files = [f"{video.name}/{frame}" for frame in video.frames] or [video.name]
        text = stamp_of(folder, files).text
        marks.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big"))
    return np.array(marks, np.uint64)


def _stamp(source: StoredClips, folder: Path) -> Stamp:
    """What changes when the clips may have, each with a mark of its own."""
    marks = np.repeat(_marks(folder, source.films), source._counts)
    numbers: Any = np.concatenate([np.arange(count) for count in source._counts])
    said = repr(tuple(source.clips))
    cut = int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big")
    own = marks ^ ((numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN) ^ np.uint64(cut)
    return Stamp(hashlib.sha256(marks.tobytes() + said.encode()).hexdigest(), own)
