"""Published checkpoints in every wrapping, and those that must be refused."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import convflow
from convflow.models.convert import describe_weights, load_official
from convflow.models.dit import DiT, SiT
from convflow.models.flowdcn import FlowDCN
from convflow.models.zoo import create_model
from convflow.nn.positions import sincos_positions
from convflow.types import InputError
from tests.cases import inputs, read_golden
from tests.tolerance import GOLDEN, assert_close_rms


@pytest.fixture(scope="module")
def golden():
    return read_golden("flowdcn_tiny")


def check(model, golden):
    _, _, (x, t, y), expected = golden
    assert_close_rms(model(x, t, y), expected, limit=GOLDEN)
    assert not model.training


def worse(state):
    return {name: tensor * 2 for name, tensor in state.items()}


WRAPPINGS = {
    "plain": lambda state: state,
    "ema": lambda state: {"ema": state, "model": worse(state), "opt": {"lr": 1}},
    "model": lambda state: {"model": state, "step": 7},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
}


@pytest.mark.parametrize(
    ("wrapping", "suffix"),
    [*((name, None) for name in WRAPPINGS), ("plain", ".pt"), ("ema", ".pth"), ("model", ".ckpt")],
)
def test_state_dicts_and_pickles(golden, tmp_path, wrapping, suffix):
    content = WRAPPINGS[wrapping](golden[0])
    if suffix is None:
        return check(load_official(content, family="flowdcn"), golden)
    torch.save(content, tmp_path / f"weights{suffix}")
    return check(convflow.load_official(tmp_path / f"weights{suffix}"), golden)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "net.model."])
def test_names_under_a_prefix(golden, prefix):
    check(load_official({prefix + name: tensor for name, tensor in golden[0].items()}), golden)


def test_what_was_taken_and_left_out_is_said(golden, tmp_path, caplog):
    ema = {**golden[0], "projectors.0.0.weight": torch.zeros(2)}
    torch.save({"model_ema": ema, "model": worse(golden[0]), "epoch": 3}, tmp_path / "w.pt")
    with caplog.at_level(logging.INFO, "convflow"):
        check(load_official(tmp_path / "w.pt"), golden)
    said = "flowdcn, the averaged weights in model_ema; left out model, epoch, projectors.*"
    assert caplog.messages == [f"{tmp_path / 'w.pt'}: {said}"]
    found = describe_weights(tmp_path / "w.pt")
    assert found["left_out"] == ["model", "epoch", "projectors.*"]
    assert (found["part"], found["averaged"], found["tensors"]) == ("model_ema", True, 65)
    assert "problem" not in found
    raw = load_official(tmp_path / "w.pt", part="model")
    assert raw.embed_label.weight.equal(2 * golden[0]["y_embedder.embedding_table.weight"])
    caplog.clear()
    load_official(golden[0])
    assert caplog.messages == []


def test_safetensors(golden, tmp_path):
    save_file(golden[0], tmp_path / "weights.safetensors")
    check(load_official(str(tmp_path / "weights.safetensors")), golden)


def test_half_precision_weights_become_float32(golden):
    model = load_official({name: tensor.half() for name, tensor in golden[0].items()})
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_state_dict_given_is_left_alone(golden):
    before = {name: tensor.clone() for name, tensor in golden[0].items()}
    model = load_official(golden[0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(golden[0][name].equal(tensor) for name, tensor in before.items())


def test_sizes_are_read_off_the_tensors(golden):
    model = load_official(golden[0], keep_half=True)
    assert isinstance(model, FlowDCN)
    expected = {"width": 48, "depth": 3, "num_groups": 4, "num_classes": 10, "in_channels": 4}
    expected |= {"patch_size": 2, "border": "truncate", "discard_half": True}
    assert expected.items() <= model.settings.items()
    assert not load_official(golden[0]).settings["discard_half"]


def test_a_converted_model_survives_its_folder(golden, tmp_path):
    load_official(golden[0]).save_pretrained(tmp_path)
    check(convflow.load_model(tmp_path), golden)


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_code_is_refused(golden, tmp_path):
    torch.save(golden[0] | {"x": Malice(tmp_path / "new")}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Malice(tmp_path / "new")))
    for file in ("new.pt", "old.pt"):
        with pytest.raises(InputError, match="wants to run code when it is opened, and was refuse"):
            load_official(tmp_path / file)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["folder", "folder.safetensors"])
def test_a_folder_is_called_one(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="expected a file of weights, got the folder"):
        load_official(tmp_path / name)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_absent_and_damaged_files_are_named(golden, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(InputError, match=r"weights\.\w+, found no such file"):
        load_official(path)
    (save_file if suffix == ".safetensors" else torch.save)(golden[0], path)
    whole = path.read_bytes()
    for content in (b"", b"not a checkpoint", whole[:-2000], whole[:1000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.\w+ is damaged"):
            load_official(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "the state dict: expected a state dict, got an empty dict"),
        (lambda s: {"epoch": 3}, "of names and tensors, but it holds the int 'epoch'"),
        (lambda s: s | {1: torch.zeros(2)}, "names and tensors, but it holds the Tensor 1"),
        (lambda s: s | {"blocks.999999999.attn.v.bias": torch.zeros(2)}, r"blocks\.3\.attn"),
        (
            lambda s: {"a": torch.zeros(2)},
            r"holds no published weights of flowdcn, dico, dit, sit, but 1 tensor, a \(2,\); give",
        ),
        (
            lambda s: {n: t for n, t in s.items() if "blocks." not in n},
            r"holds no published weights of flowdcn, .*, but 11 tensors such as final_layer\.adaLN",
        ),
        (
            lambda s: {n: t.flatten() for n, t in s.items()},
            r"flowdcn weights \(its shapes are others: not .*such as blocks\.0\.adaLN_modulation",
        ),
        (lambda s: s | {"extra": torch.zeros(1)}, r"fit flowdcn: extra of shape \(1,\) is unknown"),
        (
            lambda s: {n: t for n, t in s.items() if "1.norm1" not in n},
            r"expected blocks\.1\.norm1\.weight, which is not there; it has 64 tensors such as bl",
        ),
        (
            lambda s: {f"module.{n}": t for n, t in s.items() if "1.attn.v.w" not in n},
            r"flowdcn: expected module\.blocks\.1\.attn\.v\.weight, which is not there",
        ),
        (
            lambda s: s | {"blocks.1.attn.v.weight": torch.zeros(48, 47)},
            r"blocks\.1\.attn\.v\.weight is \(48, 47\), expected \(48, 48\)",
        ),
        (
            lambda s: s | {"final_layer.linear.bias": torch.zeros(31)},
            "holds no published flowdcn weights",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(golden, change, message):
    with pytest.raises(InputError, match=message):
        load_official(change(golden[0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.index_fill(0, torch.tensor(0), torch.nan),
            "numbers that are not finite, first",
        ),
        (
            lambda t: t.index_fill(0, torch.tensor(0), torch.inf),
            "numbers that are not finite, first",
        ),
        (torch.Tensor.int, "got it as int32, strided"),
        (torch.Tensor.bool, "got it as bool, strided"),
        (lambda t: t.to(torch.float8_e4m3fn), "got it as float8_e4m3fn, strided"),
        (lambda t: t.to(torch.complex64), "got it as complex64, strided"),
        (torch.Tensor.to_sparse, "got it as float32, sparse_coo"),
        (lambda t: t.to("meta"), "got it on no device"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(golden, tmp_path, change, message):
    name = "blocks.1.attn.v.weight"
    state = golden[0] | {name: change(golden[0][name])}
    with pytest.raises(InputError, match=message) as error:
        load_official({"ema": state})
    assert name in str(error.value)
    torch.save(state, tmp_path / "weights.pt")
    assert message in describe_weights(tmp_path / "weights.pt")["problem"]


def test_dico_is_read_alike(tmp_path):
    golden = read_golden("dico_tiny")
    weights, config, (x, t, y), expected = golden
    golden = (weights, config, (x, t.float(), y), expected)
    torch.save(WRAPPINGS["ema"](weights), tmp_path / "dico.pt")
    model = load_official(tmp_path / "dico.pt", family="dico")
    check(model, golden)
    assert model.settings == {
        "family": "dico",
        "in_channels": config["in_channels"],
        "num_classes": config["num_classes"],
        "width": config["hidden_size"],
        "depths": config["depth"],
        "mlp_ratio": config["mlp_ratio"],
        "kernel_size": 3,
        "attention": "cca",
        "activation": "gelu",
        "layout": "u",
        "learned_variance": True,
        "pad": False,
        "time_scale": 1.0,
        "second_time": False,
        "told_guidance": False,
        "temporal": "none",
        "cross_attention": 0,
        "text_width": 0,
        "pooled_width": 0,
        "text_length": 0,
        "text_rows": 0,
        "text_depth": 0,
    }
    model.save_pretrained(tmp_path)
    check(convflow.load_model(tmp_path), golden)


def test_dico_without_variance_and_with_a_wider_kernel():
    given = read_golden("dico_tiny")[0]
    weights = {n: F.pad(t, (1, 1, 1, 1)) if ".conv2.w" in n else t for n, t in given.items()}
    weights |= {n: t[:4] for n, t in given.items() if "out_proj" in n}
    model, whole = load_official(weights, "dico"), load_official(given, "dico")
    assert (model.settings["kernel_size"], model.learned_variance) == (5, False)
    x, t, y = read_golden("dico_tiny")[2]
    assert_close_rms(model(x, t.float(), y), whole(x, t.float(), y)[:, :4])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"extra": torch.zeros(1)}, r"fit dico: extra of shape \(1,\) is unknown"),
        (
            lambda s: {n: t for n, t in s.items() if "latent.0.ca" not in n},
            r"does not fit dico: expected latent\.0\.ca\.1\.bias, which is not there",
        ),
        (
            lambda s: {n: t for n, t in s.items() if "latent" not in n},
            "depths: expected a whole num",
        ),
        (
            lambda s: read_golden("flowdcn_tiny")[0],
            "no published dico weights, but those of flowdcn",
        ),
    ],
)
def test_dico_tensors_that_do_not_fit_are_named(change, message):
    with pytest.raises(InputError, match=message):
        load_official(change(read_golden("dico_tiny")[0]), family="dico")


def training_checkpoint(state, **arguments):
    """What the released training scripts of DiT and SiT store."""
    args = argparse.Namespace(model="DiT-S/2", image_size=256, results_dir=None, **arguments)
    return {"model": worse(state), "ema": state, "opt": {"state": {}}, "args": args}


@pytest.mark.parametrize(
    ("family", "suffix"), [("dit", None), ("sit", ".pt"), ("dit", ".ckpt"), ("sit", ".safetensors")]
)
def test_dit_and_sit_are_read_alike(family, suffix, tmp_path):
    golden = read_golden(f"{family}_tiny")
    weights = golden[0]
    if suffix == ".safetensors":
        save_file(weights, weights_at := tmp_path / "weights.safetensors")
    elif suffix:
        torch.save(training_checkpoint(weights), weights_at := tmp_path / f"weights{suffix}")
    model = load_official(weights_at if suffix else weights, family, num_heads=4)
    check(model, golden)
    model.save_pretrained(tmp_path / "ours")
    check(convflow.load_model(tmp_path / "ours"), golden)


def test_a_command_line_may_lie_beside_weights_but_no_other_object(tmp_path):
    weights, allowed = read_golden("dit_tiny")[0], torch.serialization.get_safe_globals()
    content = training_checkpoint(weights, more=Malice(tmp_path / "new"))
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="wants to run code when it is opened, and was refused"):
        load_official(tmp_path / "weights.pt", "dit", num_heads=4)
    assert not (tmp_path / "new").exists()
    assert set(torch.serialization.get_safe_globals()) == set(allowed)
    torch.save(training_checkpoint(weights), tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "weights.pt", weights_only=True)  # torch alone refuses it still


@pytest.mark.parametrize(
    ("name", "model", "family"),
    [
        ("SiT-XL-2-256x256.pt", None, SiT),
        ("DiT-XL-2-256x256.pt", None, DiT),
        ("last.pt", "SiT-S/2", SiT),
        ("dit.pt", "SiT-S/2", SiT),
        ("last.pt", None, None),
        ("situation.pt", "Other/2", None),
    ],
)
def test_dit_and_sit_are_told_apart_or_asked_for(name, model, family, tmp_path, caplog):
    """By the command of their training, then by the name of the file; never guessed."""
    content = {"ema": read_golden("dit_tiny")[0]}
    content |= {"args": argparse.Namespace(model=model)} if model else {}
    torch.save(content, tmp_path / name)
    if family is None:
        with pytest.raises(
            InputError, match="DiT and SiT are alike; give family='dit' or family='si"
        ):
            load_official(tmp_path / name, num_heads=4)
        return
    with caplog.at_level(logging.INFO, "convflow"):
        assert type(load_official(tmp_path / name, num_heads=4)) is family
    assert ("by the command of its training" if model else "by its name") in caplog.text


def test_the_family_is_seen_by_the_tensors_and_a_wrong_one_named(golden):
    assert load_official(read_golden("dico_tiny")[0]).family == "dico"
    assert load_official(golden[0]).family == "flowdcn"
    with pytest.raises(InputError, match=r"no published sit weights, but those of dico; .* 'dico'"):
        load_official(read_golden("dico_tiny")[0], "sit")
    with pytest.raises(InputError, match="holds a network of convflow"):
        load_official(load_official(golden[0]).state_dict())


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A DiT of diffusers with random weights everywhere, and the folder of its pipeline."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(3)
    size = {"num_attention_heads": 3, "attention_head_dim": 16, "num_layers": 2, "sample_size": 8}
    model = diffusers.DiTTransformer2DModel(**size, out_channels=8, num_embeds_ada_norm=10).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
    folder = tmp_path_factory.mktemp("diffusers")
    model.save_pretrained(folder / "transformer")
    return model, folder


@pytest.mark.parametrize("form", ["folder", "transformer", "file", "bin", "shards"])
def test_a_dit_of_diffusers_predicts_the_same(theirs, form, tmp_path, caplog):
    model, folder = theirs
    place = folder / {"transformer": "transformer"}.get(form, "")
    if form == "file":
        place = folder / "transformer/diffusion_pytorch_model.safetensors"
    if form in ("bin", "shards"):
        options = {"safe_serialization": False} if form == "bin" else {"max_shard_size": "100KB"}
        model.save_pretrained(place := tmp_path / "transformer", **options)
    with caplog.at_level(logging.INFO, "convflow"):
        same = load_official(place, time_spacing=127)
        assert caplog.messages == []
        ours = load_official(place)
    assert "for what diffusers itself has trained give time_spacing=127" in caplog.text
    assert (ours.family, ours.settings["num_heads"], ours.learned_variance) == ("dit", 3, True)
    x, y = torch.randn(4, 4, 8, 8), torch.tensor([0, 3, 10, 9])
    for t in (torch.tensor([0, 1, 500, 999]), torch.full((4,), 37)):
        # DiT's own code spaces the frequencies of time by 128, diffusers' class by 127.
        for network, shift in ((same, 1), (ours, 0)):
            for block in model.transformer_blocks:
                block.norm1.emb.time_proj.downscale_freq_shift = shift
            with torch.no_grad():
                expected = model(x, t, y).sample
                assert_close_rms(network(x, t.float(), y), expected, limit=GOLDEN)
            assert expected.std() > 0.1
    found = describe_weights(place)
    assert (found["family"], found["model"]["num_heads"]) == ("dit, of diffusers", 3)
    assert found["parameters"] == sum(p.numel() for p in ours.parameters())
    assert "problem" not in found


def test_what_is_no_dit_of_diffusers_is_named(theirs, tmp_path):
    weights = theirs[0].state_dict()
    copied = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    with pytest.raises(InputError, match=r"all blocks share .*, got .*blocks\.1\.norm1\.emb\.c"):
        load_official(weights | {copied: torch.zeros(11, 48)}, num_heads=3)
    for lost in ("transformer_blocks.1.attn1.to_k.weight", "transformer_blocks.1.ff.net.2.bias"):
        with pytest.raises(InputError, match=rf"expected {lost}, which is not there"):
            load_official({n: t for n, t in weights.items() if n != lost}, num_heads=3)
    with pytest.raises(InputError, match="extra of shape"):
        load_official(weights | {"extra": torch.zeros(1)}, num_heads=3)
    theirs[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"_class_name": "PixArtTransformer2DModel"}, {"activation_fn": "gelu"}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(
            InputError, match=f"config.json: expected .*, got .*{next(iter(change.values()))}"
        ):
            load_official(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(InputError, match="damaged: expected a weight_map to files"):
        load_official(index)


def test_sizes_of_a_dit_are_read_off_the_tensors():
    weights = read_golden("dit_tiny")[0]
    expected = {"width": 48, "depth": 3, "num_heads": 4, "num_classes": 10, "in_channels": 4}
    expected |= {"patch_size": 2, "mlp_ratio": 4.0, "learned_variance": True}
    assert expected.items() <= load_official(weights, "dit", num_heads=4).settings.items()
    assert load_official(weights, "sit", num_heads=4).project.out.out_features == 16
    kept = load_official(weights, "sit", num_heads=4, keep_half=True)
    assert (kept.project.out.out_features, kept.settings["discard_half"]) == (32, True)


GROWN = {48: 384, 144: 1152, 192: 1536, 288: 2304, 96: 768, 11: 1001}


def grow(weights):
    """Weights of DiT-S/2 in the released names, that take no space: twelve blocks of zeros."""
    grown = {}
    for name, tensor in weights.items():
        for block in range(12) if ".0." in name and name.startswith("blocks.0") else [0]:
            shape = [GROWN.get(side, side) for side in tensor.shape]
            grown[re.sub(r"^blocks\.0", f"blocks.{block}", name)] = torch.zeros(1).expand(shape)
    table = sincos_positions(16, 16, 384, torch.zeros(1)).reshape(1, 256, 384)
    return {n: t for n, t in grown.items() if n != "pos_embed"} | {"pos_embed": table}


def test_heads_of_a_published_width_are_known_and_others_asked_for():
    weights = read_golden("dit_tiny")[0]
    model = load_official(grow(weights), "dit")
    again = create_model("dit-s/2", learned_variance=True)
    assert model.settings == again.settings
    with pytest.raises(InputError, match=r"one of 384, 768, 1024, 1152, got 48: .* give num_heads"):
        load_official(weights, "dit")
    with pytest.raises(InputError, match="got width 48 and num_heads 5"):
        load_official(weights, "sit", num_heads=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"pos_embed": s["pos_embed"] + 1e-3}, r"pos_embed of .* is not the fixed"),
        (lambda s: s | {"pos_embed": s["pos_embed"][:, :15]}, r"\(1, 15, 48\) is not the fixed"),
        (lambda s: s | {"extra": torch.zeros(1)}, r"fit dit: extra of shape \(1,\) is unknown"),
        (
            lambda s: {n: t for n, t in s.items() if "1.attn.proj.b" not in n},
            r"does not fit dit: expected blocks\.1\.attn\.proj\.bias, which is not there",
        ),
        (
            lambda s: {n: t for n, t in s.items() if "fc1" not in n},
            r"expected blocks\.0\.mlp\.fc1\.bi",
        ),
        (
            lambda s: read_golden("flowdcn_tiny")[0],
            "no published dit weights, but those of flowdcn; leave",
        ),
    ],
)
def test_dit_tensors_that_do_not_fit_are_named(change, message):
    with pytest.raises(InputError, match=message):
        load_official(change(read_golden("dit_tiny")[0]), family="dit", num_heads=4)


OTHER_SHAPES = {
    "no side": lambda tensor: torch.zeros(()),
    "no column": lambda tensor: tensor[..., :0],
    "no row": lambda tensor: tensor[:0],
}
BROKEN = [
    *((family, how) for family in ("flowdcn", "dit") for how in OTHER_SHAPES),
    ("dico", "no row"),  # where a size divides by another
    *(pytest.param("dico", how, marks=pytest.mark.slow) for how in ("no side", "no column")),
]


@pytest.mark.parametrize(("family", "how"), BROKEN)
def test_a_tensor_of_any_other_shape_is_refused_in_one_line(family, how, tmp_path):
    """One tensor of each kind, that of the first block: sizes are read off it."""
    weights, heads = read_golden(f"{family}_tiny")[0], 4 if family == "dit" else None
    kinds = {re.sub(r"\d+", "*", name): name for name in reversed(weights)}
    for name in kinds.values():
        tensor = weights[name]
        changed = weights | {name: OTHER_SHAPES[how](tensor)}
        if changed[name].shape == tensor.shape or name.endswith(("_prior", "pos_embed")):
            continue
        with pytest.raises(InputError) as caught:
            load_official(changed, family, num_heads=heads)
        assert "\n" not in str(caught.value), name
    without_width = {n: t.new_zeros([s % 48 for s in t.shape]) for n, t in weights.items()}
    torch.save(without_width, tmp_path / "weights.pt")
    problem = describe_weights(tmp_path / "weights.pt")["problem"]
    assert "leave out the family" not in problem


def test_half_precision_and_absent_tables_of_positions_are_fine():
    weights = read_golden("dit_tiny")[0]
    load_official({n: t.bfloat16() for n, t in weights.items()}, "dit", num_heads=4)
    load_official({n: t for n, t in weights.items() if n != "pos_embed"}, "dit", num_heads=4)


def test_a_file_is_described_without_building_its_network(tmp_path):
    weights = read_golden("dit_tiny")[0]
    torch.save(training_checkpoint(grow(weights)), tmp_path / "weights.pt")
    found = describe_weights(tmp_path / "weights.pt")
    assert found == {
        "file": str(tmp_path / "weights.pt"),
        "holds": ["args", "ema", "model", "opt"],
        "part": "ema",
        "averaged": True,
        "left_out": ["model", "opt", "args"],
        "tensors": 12 * 10 + 12,
        "parameters": 32_865_056,
        "dtypes": ["float32"],
        "family": "dit or sit, whose tensors are alike",
        "size": "dit-s/2",
        "model": {
            "width": 384,
            "in_channels": 4,
            "patch_size": 2,
            "num_classes": 1000,
            "depth": 12,
            "num_heads": 6,
            "mlp_ratio": 4.0,
            "learned_variance": True,
        },
    }


@pytest.mark.parametrize("family", ["flowdcn", "dico", "dit"])
def test_the_family_of_a_file_is_seen(family, tmp_path):
    weights = read_golden(f"{family}_tiny")[0]
    save_file(weights, tmp_path / "weights.safetensors")
    found = describe_weights(tmp_path / "weights.safetensors")
    assert found["family"].startswith(family)
    assert (found["size"], found["averaged"]) == ("not a published one", False)
    assert found["holds"] == ["a state dict"]
    assert "problem" not in found
    name = next(name for name in weights if name.endswith("bias"))
    save_file({n: t for n, t in weights.items() if n != name}, tmp_path / "weights.safetensors")
    assert describe_weights(tmp_path / "weights.safetensors")["problem"].startswith("expected ")


def test_tensors_of_no_family_are_counted(tmp_path):
    save_file({"a": torch.zeros(2, 3).half()}, tmp_path / "weights.safetensors")
    found = describe_weights(tmp_path / "weights.safetensors")
    assert (found["family"], found["parameters"], found["dtypes"]) == ("unknown", 6, ["float16"])


@pytest.mark.parametrize(
    ("family", "size"),
    [("flowdcn", (13, 5)), ("dico", (1, 3)), ("dit", (13, 5)), ("sit", (1, 3))],
)
def test_a_converted_network_takes_any_rectangle(family, size):
    """Smaller and larger than that of its golden; in float64 it says the same."""
    weights = read_golden(f"{family}_tiny")[0]
    heads = {"num_heads": 4} if family in ("dit", "sit") else {}
    model = load_official(weights, family, **heads)
    x, t, y = inputs(model, 2, size)
    out = model(x, t, y)
    channels = model.in_channels * (2 if model.learned_variance else 1)
    assert out.shape == (2, channels, *x.shape[2:])
    assert out.any()
    assert_close_rms(out, model.double()(x.double(), t.double(), y), limit=GOLDEN)


def test_neither_a_file_nor_a_state_dict_is_refused(unchecked):
    with pytest.raises(InputError, match="expected a file of weights or a state dict, got 3; give"):
        load_official(3)


def test_an_unknown_family_is_refused(golden):
    message = r"unknown family of published weights 'flowdc'; did you mean 'flowdcn'\?"
    with pytest.raises(InputError, match=message):
        load_official(golden[0], family="flowdc")
