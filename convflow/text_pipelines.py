"""Text encoders of published pipelines of diffusers, whose features are joined as they join them.

A folder of a pipeline has `model_index.json`, and beside it encoders and tokenizers of transformers
in folders such as `text_encoder` and `tokenizer_2`. FLUX.1 takes tokens from T5 and the vector of a
text from CLIP; Stable Diffusion 3 puts the tokens of two CLIPs in front of those of T5 (Esser et
al. 2024, arXiv 2403.03206, appendix B.2); PRX takes tokens from the encoder of T5Gemma.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convflow import hub
from convflow.conditions.text import Text
from convflow.storage import hash_tensors, read_json
from convflow.text_encoders import EncoderShape, refused
from convflow.types import InputError

PIPELINE_INDEX = "model_index.json"
SETTINGS_OF_ENCODERS = (PIPELINE_INDEX, "text_encoder*/*.json", "tokenizer*/*")
WEIGHTS_OF_ENCODERS = ("text_encoder*/model.safetensors", "text_encoder*/model-*.safetensors")
WANTED = "the text encoders of a pipeline (--text.encoder)"


class PromptLayout(NamedTuple):
    """How a pipeline makes features of its encoders.

    Attributes:
        encoders: names of their folders.
        encode: from the pipeline, texts and a number of tokens to features.
        shape: from the configurations of the encoders to the channels of a token and of a text.
        num_tokens: of the tokenizer that is named last, as the pipeline takes them by default;
            None for as many as the tokenizer says.
        in_front: whether the tokens of the first encoder stand in front of them.
        parts: what else the pipeline is made of, none of which is asked for features.
        packages: that it needs.
    """

    encoders: tuple[str, ...]
    encode: Callable[[Any, list[str], int], Text]
    shape: Callable[[Sequence[Any]], tuple[int, int]]
    num_tokens: int | None
    in_front: bool = False
    parts: tuple[str, ...] = ("scheduler", "vae", "transformer")
    packages: tuple[str, ...] = ("transformers", "diffusers")

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Names of the folders of the tokenizers."""
        return tuple(name.replace("text_encoder", "tokenizer") for name in self.encoders)


def encode_flux(pipe: Any, texts: list[str], num_tokens: int) -> Text:
    """Return tokens of T5, the padding among them, and CLIP's vector."""
    tokens, pooled, _ = pipe.encode_prompt(
        texts, device=pipe.text_encoder.device, max_sequence_length=num_tokens
    )
    return Text(tokens, _all_of(tokens), pooled)


def encode_sd3(pipe: Any, texts: list[str], num_tokens: int) -> Text:
    """Return tokens of both CLIPs, side by side, before those of T5; and the vectors of both."""
    tokens, _, pooled, _ = pipe.encode_prompt(
        texts,
        None,
        None,
        device=pipe.text_encoder.device,
        do_classifier_free_guidance=False,
        max_sequence_length=num_tokens,
    )
    return Text(tokens, _all_of(tokens), pooled)


def encode_prx(pipe: Any, texts: list[str], num_tokens: int) -> Text:
    """Return tokens and their mask; PRX has no vector of a text, which is the tokens' mean."""
    tokens, mask, _, _ = pipe.encode_prompt(
        texts,
        pipe.text_encoder.device,
        do_classifier_free_guidance=False,
        tokenizer_max_length=num_tokens,
    )
    kept = tokens.float() * mask[..., None]
    return Text(tokens, mask, kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


def _all_of(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _shape_of_flux(configs: Sequence[Any]) -> tuple[int, int]:
    clip, t5 = configs
    return t5.hidden_size, clip.hidden_size


def _shape_of_sd3(configs: Sequence[Any]) -> tuple[int, int]:
    *clips, t5 = configs
    return t5.hidden_size, sum(clip.projection_dim for clip in clips)


def _shape_of_prx(configs: Sequence[Any]) -> tuple[int, int]:
    width = configs[0].encoder.hidden_size
    return width, width


PROMPT_LAYOUTS: dict[str, PromptLayout] = {
    "FluxPipeline": PromptLayout(
        ("text_encoder", "text_encoder_2"), encode_flux, _shape_of_flux, 512
    ),
    "StableDiffusion3Pipeline": PromptLayout(
        ("text_encoder", "text_encoder_2", "text_encoder_3"),
        encode_sd3,
        _shape_of_sd3,
        256,
        in_front=True,
    ),
    "PRXPipeline": PromptLayout(
        ("text_encoder",),
        encode_prx,
        _shape_of_prx,
        None,
        packages=("transformers", "diffusers", "ftfy"),
    ),
}
"""By the name of the class in diffusers."""


class FoundPipeline(NamedTuple):
    """A pipeline of diffusers whose encoders nobody has read yet.

    Attributes:
        name: what the user calls it.
        folder: with the settings; of a repository of the Hub without the weights.
        index: which class each part is of.
    """

    name: str
    folder: Path
    index: Mapping[str, Any]  # type: ignore[assignment]

    @property
    def layout(self) -> PromptLayout:
        """What is known of the class of the pipeline."""
        return PROMPT_LAYOUTS[self.index["_class_name"]]

    @property
    def kind(self) -> Any:
        """The class of the pipeline; InputError where a package that it needs is missing."""
        name = self.index["_class_name"]
        for package in self.layout.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise InputError(
                    f"expected the package {package} for the prompts of a {name}, found none; pip "
                    f"install {package}"
                ) from error
        import diffusers

        return getattr(diffusers, name)

    def class_of(self, part: str) -> Any:
        """Return the class of an encoder or a tokenizer, of transformers or of diffusers."""
        library, name = map(str, self.index.get(part) or (None, None))
        places = [self.kind.__module__.rpartition(".")[0]]  # where diffusers has its own
        if library.partition(".")[0] == "transformers":
            places.append(library)
        for place in places:
            with suppress(ImportError):
                if (found := getattr(importlib.import_module(place), name, None)) is not None:
                    return found
        raise InputError(
            f"expected {part} of transformers in the pipeline {self.name}, got {library} {name}; "
            "give a pipeline with all its text encoders"
        )

    @property
    def in_front(self) -> int:
        """Tokens of another encoder in front of those that are counted."""
        if not self.layout.in_front:
            return 0
        return _longest(self.folder / self.layout.tokenizers[0])


def find_pipeline(name: str) -> FoundPipeline | None:
    """Return the pipeline of diffusers in a folder or on the Hub; None where there is another.

    Of a repository the settings alone are downloaded.

    Raises:
        InputError: a pipeline of a class that is not known here.
    """
    folder = Path(name).expanduser()
    if not folder.exists() and hub.is_id(name):
        try:
            folder = hub.download(name, [PIPELINE_INDEX], WANTED)
            if (folder / PIPELINE_INDEX).is_file():
                folder = hub.download(name, SETTINGS_OF_ENCODERS, WANTED)
        except InputError:  # who reads an encoder says why
            return None
    if not (folder / PIPELINE_INDEX).is_file():
        return None
    found = FoundPipeline(name, folder, read_json(folder / PIPELINE_INDEX))
    if (kind := found.index.get("_class_name")) not in PROMPT_LAYOUTS:
        raise InputError(
            f"expected the text encoders of a {', '.join(PROMPT_LAYOUTS)}, got {name} of the class "
            f"{kind}; give the folder of one encoder, such as {name}/text_encoder"
        )
    return found


def read_shape(found: FoundPipeline) -> EncoderShape:
    """Return what the features of a pipeline are like, without its weights.

    Raises:
        InputError: transformers is missing, or an encoder.
    """
    try:
        configs = [
            found.class_of(name).config_class.from_pretrained(found.folder / name)
            for name in found.layout.encoders
        ]
        width, pooled = found.layout.shape(configs)
        usual = found.layout.num_tokens or _longest(found.folder / found.layout.tokenizers[-1])
        longest = found.in_front + usual
        return EncoderShape(int(width), int(pooled), longest, longest, found.in_front + 1)
    except InputError:
        raise
    except Exception as error:  # of transformers or of a file
        raise refused(found.name, error) from error


class PipelineEncoders(NamedTuple):
    """The text encoders of a pipeline with their tokenizers.

    Attributes:
        pipe: of diffusers, without transformer and autoencoder.
        layout: of its class.
        in_front: tokens of another encoder in front of those that are counted.
        sha256: of all weights.
    """

    pipe: Any
    layout: PromptLayout
    in_front: int
    sha256: str

    def to(self, device: torch.device | None) -> PipelineEncoders:
        """Move the encoders to a device; None leaves them where they are."""
        for name in self.layout.encoders if device is not None else ():
            getattr(self.pipe, name).to(device)
        return self

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, those of other encoders in front included."""
        tokenizer = getattr(self.pipe, self.layout.tokenizers[-1])
        with _quiet():
            numbers = tokenizer(list(texts), truncation=False)["input_ids"]
        return [self.in_front + len(ids) for ids in numbers]

    @torch.no_grad()
    def encode(self, texts: Sequence[str], length: int) -> Text:
        """Return features in float32 as the pipeline makes them, padded or cut to `length`."""
        with _quiet():
            found = self.layout.encode(self.pipe, list(texts), length - self.in_front)
        tokens, mask, pooled = found
        return Text(tokens.float(), mask, pooled.float())


def load(found: FoundPipeline, dtype: torch.dtype = torch.float32) -> PipelineEncoders:
    """Return the text encoders of a pipeline, their weights and arithmetic in `dtype`.

    Raises:
        InputError: transformers or diffusers is missing; an encoder, or one of its weights.
    """
    if not Path(found.name).expanduser().exists():
        folder = hub.download(found.name, [*SETTINGS_OF_ENCODERS, *WEIGHTS_OF_ENCODERS], WANTED)
        found = found._replace(folder=folder)
    try:
        parts = {name: _read_encoder(found, name, dtype) for name in found.layout.encoders}
        for name in found.layout.tokenizers:
            parts[name] = found.class_of(name).from_pretrained(found.folder / name)
        pipe = found.kind(**dict.fromkeys(found.layout.parts), **parts)
    except InputError:
        raise
    except Exception as error:  # of transformers, of diffusers or of a file
        raise refused(found.name, error) from error
    weights = {
        f"{name}.{key}": tensor
        for name in found.layout.encoders
        for key, tensor in parts[name].state_dict().items()
    }
    return PipelineEncoders(pipe, found.layout, found.in_front, hash_tensors(weights))


def _read_encoder(found: FoundPipeline, name: str, dtype: torch.dtype) -> Any:
    network, report = found.class_of(name).from_pretrained(
        found.folder / name, use_safetensors=True, output_loading_info=True, dtype=dtype
    )
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random numbers
        raise InputError(
            f"expected all weights of {name} in {found.name}, got it without {missing[0]}; copy "
            "the whole folder"
        )
    return network.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries from saying of every batch which texts they cut, which is said once here."""
    before = {name: logging.getLogger(name).level for name in ("transformers", "diffusers")}
    for name in before:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _longest(folder: Path) -> int:
    """Return how many tokens a tokenizer takes."""
    return int(read_json(folder / "tokenizer_config.json")["model_max_length"])
