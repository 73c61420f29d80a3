"""A source of pictures of a user's own: plain colours, a class for each."""

import numpy as np

from convflow.data.sources import Source


class Colours(Source):
    """40 pictures of 8x8 pixels; other splits are darker."""

    name = "colours"

    def __init__(self, split: str, labelled: bool) -> None:
        self.level = 255 if split == "train" else 128
        self.class_names = ("red", "green", "blue") if labelled else ()

    def __len__(self) -> int:
        return 40

    def label(self, index: int) -> int:
        return index % 3 if self.class_names else 0

    def item_name(self, index: int) -> str:
        return f"colour {index}"

    def read(self, index: int) -> np.ndarray:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[..., index % 3] = self.level
        return picture
