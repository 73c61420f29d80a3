"""A data source: plain colours, one class for each."""

import numpy as np

from convflow.data.sources import Source


class Colours(Source):
    """40 images of 8x8 pixels. Those of other splits than `train` are darker."""

    name = "colours"

    def __init__(self, split, labelled):
        self.level = 255 if split == "train" else 128
        self.class_names = ("red", "green", "blue") if labelled else ()

    def __len__(self):
        return 40

    def label(self, index):
        """Return the number of the class, 0 where there are no classes."""
        return index % 3 if self.class_names else 0

    def item_name(self, index):
        """Return a name for messages."""
        return f"colour {index}"

    def read(self, index):
        """Return uint8 levels (H, W, C)."""
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[..., index % 3] = self.level
        return picture
