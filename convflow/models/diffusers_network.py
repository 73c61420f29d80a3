"""Transformers of diffusers, such as FLUX.1 and Stable Diffusion 3, as networks to be trained.

The layers are those of diffusers, in the order in which its own classes call them; time, sign and
texts are as everywhere here. A published one is the start of a training, see
`DiffusersNetwork.from_diffusers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from convflow.conditions.text import Text
from convflow.models.backbone import Backbone, ImageBackbone
from convflow.models.diffusers_layouts import (
    ARCHITECTURES,
    TransformerLayout,
    create_transformer,
)
from convflow.models.diffusers_parts import (
    NoiseEmbedding,
    PackedStem,
    PositionTable,
    PromptEmbedding,
    VelocityHead,
)
from convflow.nn.norm import WithText, residual
from convflow.nn.pyramid import add_conditions
from convflow.settings.fields import Classes, Natural, NotNegative, Width
from convflow.types import InputError

EMPTY_TEXT = "embed_text.empty_"
"""What begins the names of the features of the empty text, which diffusers has no place for."""


def public_options(model: Any) -> dict[str, Any]:
    """Return the arguments of a transformer of diffusers, all of them."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}


class TextParts(NamedTuple):
    """The modules around the blocks, of which each scale of a pyramid has its own but the text."""

    stem: PackedStem
    time: NoiseEmbedding
    label: PromptEmbedding
    head: VelocityHead


class DiffusersNetwork(ImageBackbone):
    """A transformer of diffusers between our times, velocities and texts; see `ARCHITECTURES`.

    It is asked as `model(x, t, text)`, with `text` the features of texts (`Text`).

    Examples:
        >>> tiny = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1,
        ...         "attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": [4, 6, 6],
        ...         "joint_attention_dim": 8, "pooled_projection_dim": 8}
        >>> model = DiffusersNetwork(architecture="FluxTransformer2DModel", options=tiny)
        >>> x, t, text = model.blank_inputs(2, (8, 12))
        >>> tuple(model(x, t.zero_(), text).shape)
        (2, 4, 8, 12)
    """

    family = "diffusers"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The settings of a DiffusersNetwork.

        Attributes:
            architecture: class of diffusers, such as FluxTransformer2DModel.
            options: arguments of that class, as in its `config.json`; none for its defaults.
            in_channels: channels of the image in model space; none = as the options say.
            num_classes: 0, for the network reads texts.
            text_width: channels of a token of a text; the text encoder sets it, and the two that
                follow; 0 = as the options say.
            pooled_width: channels of a text as a whole; 0 = as the options say.
            text_length: most tokens of a text; 0 = the empty text is not stored.
            guidance: scale of guidance that a distilled network is told, as FLUX.1-dev is; others
                have no use of it.
        """

        architecture: str = "FluxTransformer2DModel"
        options: dict[str, Any] | None = None
        in_channels: Width | None = None
        num_classes: Classes = 0
        text_width: Natural = 0
        pooled_width: Natural = 0
        text_length: Natural = 0
        guidance: NotNegative = 3.5

    config: Config
    embed_patches: PackedStem
    embed_time: NoiseEmbedding
    embed_text: PromptEmbedding
    project: VelocityHead

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.config.num_classes:
            raise InputError(
                f"expected texts for a {self.config.architecture}, got {self.config.num_classes} "
                "classes; give images with captions"
            )
        model = create_transformer(self.config.architecture, self.config.options or {})
        self.take_parts(model)
        wanted = self.config.in_channels
        if wanted not in (None, self.in_channels):
            raise InputError(
                f"expected {self.in_channels} channels in model space for the "
                f"{self.config.architecture}, got {wanted}; give its own autoencoder"
            )
        told, own = (self.config.text_width, self.config.pooled_width), self.embed_text.widths
        if any(theirs and ours and theirs != ours for theirs, ours in zip(told, own, strict=True)):
            raise InputError(
                f"expected features of texts {own[0]} and {own[1]} wide for the "
                f"{self.config.architecture}, got {told[0]} and {told[1]}; give its own encoders"
            )
        known: dict[str, Any] = {"options": public_options(model), "in_channels": self.in_channels}
        self.config = replace(self.config, **known)

    @property
    def layout(self) -> TransformerLayout:
        """What is known of the class of diffusers."""
        return ARCHITECTURES[self.config.architecture]

    @classmethod
    def from_diffusers(cls, model: Any, **settings: Any) -> DiffusersNetwork:
        """Return the network of a transformer of diffusers, which is used up.

        Args:
            model: of a class in `ARCHITECTURES`.
            **settings: of `Config`, such as `guidance`.

        Raises:
            InputError: another class, or one for another task.
        """
        options = public_options(model)
        with torch.device("meta"):
            network = cls(architecture=type(model).__name__, options=options, **settings)
        network.take_parts(model)
        return network.train(model.training)

    def take_parts(self, model: Any) -> None:
        """Take the parts of a transformer of diffusers as one's own."""
        parts = self.layout.take(model, self.config.guidance)
        self.embed_patches, self.embed_time = parts.embed_patches, parts.embed_time
        self.embed_text, self.project = parts.embed_text, parts.project
        self.blocks, self.positions = nn.ModuleList(parts.blocks), parts.positions
        self.in_channels, self.num_classes = parts.embed_patches.in_channels, 0
        self.multiple = parts.embed_patches.stride[0]
        if not self.embed_text.widths[1]:  # the encoder's vector is given and not read
            self.embed_text.widths = self.embed_text.widths[0], self.config.pooled_width
        if self.config.text_length:
            self.embed_text.store_empty(self.config.text_length)
        self.lengths = [len(getattr(model, name)) for name in self.layout.blocks]
        self.asked: tuple[tuple[int, ...], dict[int, Tensor]] | None = None

    def name_in_diffusers(self, name: str) -> str:
        """Return what diffusers calls a weight."""
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            place, group = int(number), 0
            while place >= self.lengths[group]:
                place, group = place - self.lengths[group], group + 1
            return f"{self.layout.blocks[group]}.{place}.{rest}"
        for ours, theirs in self.layout.names.items():
            if name.startswith(f"{ours}.") or name == ours:
                return theirs + name.removeprefix(ours)
        raise AssertionError(f"{name} is in no part of {self.config.architecture}")

    def to_diffusers(self) -> Any:
        """Return a transformer of diffusers with copies of these weights."""
        with torch.device("meta"):
            model = create_transformer(self.config.architecture, self.config.options or {})
        own = {n: t for n, t in self.state_dict().items() if not n.startswith(EMPTY_TEXT)}
        weights = {self.name_in_diffusers(name): tensor.clone() for name, tensor in own.items()}
        model.load_state_dict(weights, assign=True)
        return model.eval()

    def begin_from(self, model: Backbone) -> None:
        """Take the weights of a trained network, which may not know the empty text."""
        own = {n: t for n, t in self.state_dict().items() if n.startswith(EMPTY_TEXT)}
        theirs = {n: t for n, t in model.state_dict().items() if not n.startswith(EMPTY_TEXT)}
        self.load_state_dict(own | theirs)

    @property
    def parts(self) -> Any:
        """The modules around the blocks; what a `Pyramid` copies for its scales."""
        return TextParts(self.embed_patches, self.embed_time, self.embed_text, self.project)

    @property
    def trunk_blocks(self) -> list[nn.Module]:
        """The blocks in the order in which they run."""
        return [*self.blocks]

    @property
    def takes_text(self) -> bool:
        return True

    @property
    def conditions(self) -> PromptEmbedding:
        """What can be done with the texts that it is told."""
        return self.embed_text

    def create_condition(self, make: Callable[[int], nn.Module]) -> nn.Module:
        """Return a new part of the condition, one vector."""
        return make(self.embed_patches.out_channels)

    def stem(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Return features on the grid of patches; float32 under autocast too."""
        return residual(self.embed_patches(x))

    def condition(self, t: Float[Tensor, " B"], y: Text) -> Any:
        """Return what time and text tell the other parts, a `WithText`."""
        return add_conditions([self.embed_text(y), self.embed_time(t)])

    def trunk(self, features: Float[Tensor, "B h w D"], c: WithText) -> Tensor:
        """Return the features after the last block."""
        tokens, grid = features.flatten(1, 2), features.shape[1:3]
        run = self.layout.run(self.positions, self.blocks, features, c)
        for number, tokens in enumerate(run):
            if self.asked is not None and number in self.asked[0]:
                self.asked[1].setdefault(number, tokens.unflatten(1, grid))
        return tokens.unflatten(1, grid)

    def head_vector(self, c: WithText) -> Tensor:
        """Return what the head sees of a condition."""
        return c.vector

    def head(self, features: Float[Tensor, "B h w D"], c: WithText) -> Tensor:
        """Return the velocity, data minus noise."""
        return self.project(features, c.vector)

    @contextmanager
    def features_after(self, blocks: Iterable[int]) -> Iterator[dict[int, Tensor]]:
        """Yield a dict as `Backbone.features_after` does; of two streams it is the image's."""
        wanted, found = tuple(blocks), dict[int, Tensor]()
        for number in wanted:
            if not 0 <= number < len(self.blocks):
                raise InputError(f"expected a block from 0 to {len(self.blocks) - 1}, got {number}")
        self.asked = (wanted, found) if wanted else None
        try:
            yield found
        finally:
            self.asked = None

    def check_input(self, x: Tensor) -> None:
        """Raise InputError unless channels and sides fit, and no position is beyond the stored."""
        super().check_input(x)
        table, cells = self.positions, max(x.shape[2], x.shape[3]) // self.multiple
        if isinstance(table, PositionTable) and cells > table.side:
            raise InputError(
                f"expected sides of at most {table.side * self.multiple} in model space, where the "
                f"positions of the {self.config.architecture} end, got {x.shape[2]}x{x.shape[3]}; "
                "choose a smaller size"
            )

    def blank_conditions(self, batch: int) -> Text:
        """Return features of texts without numbers, as long as in its first training."""
        length, (width, pooled) = self.layout.num_tokens, self.embed_text.widths
        mask = torch.ones(batch, length, dtype=torch.bool)
        return Text(torch.empty(batch, length, width), mask, torch.empty(batch, pooled))
