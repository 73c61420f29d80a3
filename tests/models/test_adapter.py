"""Adapters: what they begin with, what their files hold, and that peft itself reads them."""

import json
import sys
import warnings

import pytest
import torch
from torch import nn

from convflow.bench.models import perturb
from convflow.models.adapter import (
    ADAPTER_FILE,
    ADAPTER_SETTINGS,
    PREFIX,
    adapter_tensors,
    add_adapter,
    base_tensors,
    choose_layers,
    import_peft,
    load_adapter,
    write_adapter_settings,
)
from convflow.models.zoo import create_model, load_model
from convflow.nn.linear import Linear, use_engine
from convflow.parallel.shards import TensorFile
from convflow.types import InputError
from tests.cases import build
from tests.tolerance import assert_close_rms

pytest.importorskip("peft")


def inputs(network, size=8):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, network.in_channels, size, size, generator=generator)
    return x, torch.rand(2, generator=generator), torch.tensor([0, network.num_classes])


def store(network, folder, base="../base"):
    """Write the adapter of a network and its base as a training does."""
    (folder / "ema").mkdir(parents=True)
    (folder / "base").mkdir()
    TensorFile(ADAPTER_FILE, adapter_tensors(network), {"format": "pt"}).write(folder / "ema")
    write_adapter_settings(network, folder / "ema", base)
    network.save_weights(folder / "base", base_tensors(network))
    return folder / "ema"


def adapted(family="flowdcn", whole=()):
    """A tiny network whose adapter is far from zero."""
    network = perturb(build(family)).eval()
    layers = choose_layers(network, (), "--lora.target")
    add_adapter(network, layers, whole, 3, 6.0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and ("lora_B" in name or "modules_to_save" in name):
                parameter.normal_(std=0.05)
    return network


WHOLE = {"dico": ["embed_condition.label.0"], "fcdm": ["project.out"]}


@pytest.mark.parametrize("family", ["flowdcn", "flowdcn-dico", "dico", "fcdm", "dit", "sit"])
def test_a_stored_adapter_gives_what_was_trained(family, tmp_path):
    plain = perturb(build(family)).eval()
    given, before = inputs(plain), {n: t.clone() for n, t in plain.state_dict().items()}
    said = plain(*given)
    layers = choose_layers(plain, ["*"], "--lora.target")
    add_adapter(plain, layers, [], 3, 6.0)
    assert plain(*given).equal(said)  # B is zero
    assert all(tensor.equal(before[name]) for name, tensor in base_tensors(plain).items())
    assert base_tensors(plain).keys() == before.keys()

    network = adapted(family, WHOLE.get(family, ["embed_label"] if "d" in family[:1] else []))
    expected = network(*given).detach()
    assert not torch.allclose(expected, said, atol=1e-3)
    folder = store(network, tmp_path)
    merged = load_model(folder)
    assert_close_rms(merged(*given), expected)
    assert merged.settings == network.settings
    assert all(p.requires_grad for p in merged.parameters())
    assert not [name for name, _ in merged.named_modules() if "lora" in name or "base" in name]
    with warnings.catch_warnings(action="ignore"):  # peft itself, from its own kind of folder
        theirs = import_peft().PeftModel.from_pretrained(load_model(tmp_path / "base"), folder)
    assert_close_rms(theirs(*given), expected)


def test_the_engine_of_dense_layers_is_that_of_the_base():
    network = adapted()
    use_engine(network, "blas")
    layers = [m.base_layer for m in network.modules() if hasattr(m, "lora_A")]
    assert layers
    assert all(type(layer) is Linear and layer.engine == "blas" for layer in layers)


@pytest.mark.parametrize("size", ["flowdcn-s/2", "dico-s", "fcdm-s", "sit-s/2"])
def test_an_adapter_is_small(size):
    """Below a twentieth of the numbers of the network, by default."""
    with torch.device("meta"):
        network = create_model(size)
        count = sum(p.numel() for p in network.parameters())
        add_adapter(network, choose_layers(network, (), "--lora.target"), [], 8, 8.0)
    assert 0 < sum(t.numel() for t in adapter_tensors(network).values()) < count / 20


class Pointwise(nn.Module):
    """Layers of a user: 1x1 and 3x3 convolutions, and one in groups."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)

    def forward(self, x):
        return self.grouped(self.large(self.small(x)))


def test_layers_are_chosen_by_patterns_and_1x1_convolutions_are_among_them():
    network = Pointwise()
    assert choose_layers(network, ["*"], "--lora.target") == ["small"]
    add_adapter(network, ["small"], [], 2, 2.0)
    x = torch.randn(1, 4, 5, 5)
    assert network(x).shape == (1, 6, 5, 5)
    assert {t.shape[2:] for t in adapter_tensors(network).values()} == {(1, 1)}
    dit = build("dit")
    found = choose_layers(dit, ["blocks.*.mlp.*", "project.out"], "--lora.target")
    assert found == ["blocks.0.mlp.0", "blocks.0.mlp.2", "blocks.1.mlp.0", "blocks.1.mlp.2",
                     "project.out"]  # fmt: skip
    with pytest.raises(InputError, match=r"a linear or 1x1 layer, got 'embed_patches', .*nearest"):
        choose_layers(dit, ["embed_patches"], "--lora.target")
    with pytest.raises(InputError, match="expected blocks with linear or 1x1 layers, got Poi"):
        choose_layers(Pointwise(), (), "--lora.target")


def change(folder, **changes):
    path = folder / ADAPTER_SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_wrong_with_a_folder_is_said(tmp_path, monkeypatch):
    network = adapted()
    folder = store(network, tmp_path)
    whole = (folder / ADAPTER_SETTINGS).read_text()
    cases = [
        ({"base_model_name_or_path": None}, "expected base_model_name_or_path, the folder of the"),
        (
            {"base_model_name_or_path": "../gone"},
            "expected the network of the adapter .* in .*gone",
        ),
        (
            {"base_model_name_or_path": "../ema"},
            "expected whole weights in .*, got another adapter",
        ),
        ({"peft_type": "IA3"}, "expected the peft_type LORA, got 'IA3'"),
        ({"r": 5}, "adapter_model.safetensors does not fit its adapter_config.json: .* is "),
        ({"target_modules": ["nowhere"]}, "holds no adapter of flowdcn that peft can read"),
        ({"r": "many"}, "holds no adapter of flowdcn that peft can read"),
    ]
    for changes, message in cases:
        change(folder, **changes)
        with pytest.raises(InputError, match=message):
            load_model(folder)
        (folder / ADAPTER_SETTINGS).write_text(whole)
    tensors = adapter_tensors(network)
    assert all(name.startswith(PREFIX) for name in tensors)
    with pytest.raises(InputError, match=r"there does not fit its adapter_config\.json: missing"):
        load_adapter(network, dict([*tensors.items()][1:]), "there")
    data = (folder / ADAPTER_FILE).read_bytes()
    (folder / ADAPTER_FILE).write_bytes(data[:-8])
    with pytest.raises(InputError, match="adapter_model"):
        load_model(folder)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"the package peft .*pip install 'convflow\[lora\]'"):
        import_peft()
