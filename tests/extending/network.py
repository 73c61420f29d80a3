"""A network: a few 3x3 convolutions. Time and label are added to the input of each."""

from dataclasses import dataclass

from torch import nn

from convflow.models.backbone import ImageBackbone
from convflow.nn.embed import LabelEmbedding, TimeEmbedding


class Net(ImageBackbone):
    """`depth` convolutions of `width` channels. A new network predicts zero."""

    multiple = 1  # images of any height and width

    @dataclass(frozen=True)
    class Config:
        """The settings, for `--model.width 8` and for config.json."""

        in_channels: int = 3
        num_classes: int = 10
        width: int = 16
        depth: int = 2

    def __init__(self, **settings):
        super().__init__(**settings)
        c = self.config
        self.in_channels, self.num_classes = c.in_channels, c.num_classes
        self.enter = nn.Conv2d(c.in_channels, c.width, 3, padding=1)
        self.time = TimeEmbedding(c.width)
        self.label = LabelEmbedding(c.num_classes, c.width)
        layers = (nn.Conv2d(c.width, c.width, 3, padding=1) for _ in range(c.depth))
        self.layers = nn.ModuleList(layers)
        self.leave = nn.Conv2d(c.width, c.in_channels, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def stem(self, x):
        """Return features (B, width, H, W) of noisy images (B, C, H, W)."""
        return self.enter(x)

    def condition(self, t, y):
        """Return one vector (B, width) for the times (B,) and labels (B,)."""
        return self.time(t) + self.label(y)

    def trunk(self, features, c):
        """Return refined features."""
        for layer in self.layers:
            features = features + layer(nn.functional.silu(features + c[:, :, None, None]))
        return features

    def head(self, features, c):
        """Return the prediction (B, C, H, W)."""
        return self.leave(features)
