"""A transformer of diffusers is loaded, trained, stored, gone on with, sampled and given back."""

import pytest
import torch

from benchmarks.reliability import kills
from convflow.bundle.folder import find_weights
from convflow.cli.main import main
from convflow.models.diffusers_network import EMPTY_TEXT, DiffusersNetwork
from convflow.models.zoo import load_model
from convflow.pipeline import Pipeline
from convflow.recipes import create_config
from convflow.training import checkpoint, launch
from convflow.training.origin import adopt
from convflow.training.overrides import override
from tests.parallel.test_fsdp import assert_regrouped
from tests.tiny_pipelines import save_published
from tests.transformers import create
from tests.two_processes import start_many

SAID = ["a red heart", "a blue dog", "a red cat\nthe cat", "", "big green heart on a square"]
SHORT = (
    "--batch-size 4 --monitor.num-samples 2 --monitor.tensorboard false --sampling.steps 2 "
    "--optim.schedule constant --optim.warmup-images 0 --device cpu --precision float32 "
    "--optim.lr 0.02 --ema.decay 0.5 --data.size 16x16 --data.channels 3 --label-dropout 0.3 "
    "--text.max-tokens 12 "
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures with captions, and two published pipelines; read them, do not write there."""
    folder = tmp_path_factory.mktemp("published")
    data = kills.make_pictures(folder / "data")
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        if text := SAID[number % len(SAID)]:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
    for case in ("flux", "sd3"):
        save_published(folder / case, case)
    return folder


def settings(place, case, words=""):
    init = str(place / case)
    given = f"--data {place / 'data'} --init {init} {SHORT}{words}".split()
    return override(adopt(create_config("pictures.flowdcn"), init), given)


def files_of(run, step):
    folder = checkpoint.folder_of(run, step)
    return {name: (folder / name).read_bytes() for name in checkpoint.FILES[:3]}


@pytest.mark.parametrize("case", ["flux", "sd3"])
def test_a_run_begins_goes_on_bit_for_bit_and_goes_back(case, place, tmp_path):
    for run, ends in (("straight", [16]), ("halved", [8, 16])):
        for images in ends:
            config = settings(place, case, f"--images {images}")
            assert launch.train(config, tmp_path / run)
    assert files_of(tmp_path / "straight", 4) == files_of(tmp_path / "halved", 4)
    before = create(case).state_dict()
    model = load_model(find_weights(tmp_path / "halved", "raw"))
    assert isinstance(model, DiffusersNetwork)
    names = model.name_in_diffusers
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(EMPTY_TEXT)}
    moved = {names(n): not torch.equal(t, before[names(n)]) for n, t in own.items()}
    assert moved.keys() == before.keys()
    # Nobody asks the text in the last block of SD3.
    still = {name.rpartition(".")[0] for name in moved if not moved[name]}
    assert still == (
        {"pos_embed", "transformer_blocks.1.attn.add_q_proj"} if case == "sd3" else set()
    )
    out = tmp_path / "given-back"
    words = ["--weights", "raw", "--to", "diffusers", "--out", str(out)]
    assert main(["export", str(tmp_path / "halved"), *words]) == 0
    back = type(create(case)).from_pretrained(out).state_dict()
    assert all(torch.equal(back[names(n)], t) for n, t in own.items())
    pipe = Pipeline.from_pretrained(tmp_path / "halved")
    asked = ["red heart", "blue dog"]
    made = pipe(prompts=asked, size=(16, 24), guidance=2.0, steps=2)
    assert made.pixels.shape == (2, 3, 16, 24)
    assert not torch.equal(made.pixels[0], made.pixels[1])
    empty = pipe.text.encode([""])
    assert all(map(torch.equal, pipe.model.conditions.null(empty), empty))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--lora.rank 2", "--process dfm", "--process dfm --lora.rank 2"])
def test_adapters_and_scales_go_on_bit_for_bit(words, place, tmp_path):
    for run, ends in (("straight", [16]), ("halved", [8, 16])):
        for images in ends:
            config = settings(place, "flux", f"{words} --images {images}")
            assert launch.train(config, tmp_path / run)
    folders = [checkpoint.folder_of(tmp_path / run, 4) for run in ("straight", "halved")]
    files = [sorted(p.relative_to(f) for p in f.rglob("*.safetensors")) for f in folders]
    assert files[0] == files[1] != []
    for name in files[0]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    if words == "--lora.rank 2":
        check_export_of_adapters(tmp_path, place)
    model = load_model(find_weights(tmp_path / "halved", "raw"))
    assert model.num_scales == 1 + ("dfm" in words)
    inner, before = model.inner, create("flux").state_dict()
    stays = inner.name_in_diffusers("embed_text.tokens.weight")
    now = inner.state_dict()["embed_text.tokens.weight"]
    assert torch.equal(now, before[stays]) == ("lora" in words)
    pipe = Pipeline.from_pretrained(tmp_path / "halved")
    made = pipe(prompts="red heart", size=(16, 24), guidance=2.0, steps=2)
    assert made.pixels.shape == (1, 3, 16, 24)


def check_export_of_adapters(folder, place):
    """Adapters are added to the weights that diffusers gets, and the others stay."""
    out = folder / "given-back"
    assert main(["export", str(folder / "halved"), "--to", "diffusers", "--out", str(out)]) == 0
    back = type(create("flux")).from_pretrained(out).state_dict()
    before = create("flux").state_dict()
    moved = {name for name in back if not torch.equal(back[name], before[name])}
    assert 0 < len(moved) < len(back)
    assert all(torch.isfinite(back[name]).all() for name in moved)


def test_a_published_pipeline_draws_what_is_asked(place):
    pipe = Pipeline.from_pretrained(place / "sd3")
    made = pipe(prompts=["red heart", ""], size=(16, 16), guidance=3.0, steps=2)
    assert made.pixels.shape == (2, 3, 16, 16)
    assert not torch.equal(made.pixels[0], made.pixels[1])


def test_a_network_of_texts_without_encoders_is_refused(place, tmp_path, capsys):
    words = ["--data", str(place / "data"), "--run", str(tmp_path / "run"), *SHORT.split()[:-2]]
    init = ["--init", str(place / "flux" / "transformer"), "--codec", "pixel"]
    assert main(["train", "pictures.flowdcn", *words, *init]) == 2
    assert "--text: expected text encoders" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["", "--process dfm"])
def test_two_processes_in_shares_train_as_one(words, place, tmp_path):
    words = f"{words} --images 16 --optim.lr 1e-3"
    assert launch.train(settings(place, "flux", words), tmp_path / "one")
    given = [str(place), str(tmp_path / "two"), "flux", f"{words} --parallel fsdp"]
    answers = start_many(2, ["-m", "tests.parallel.pretrained", *given], 300, **kills.BYTECODE)
    assert [code for code, _, _ in answers] == [0, 0], answers
    assert_regrouped(tmp_path / "one", tmp_path / "two")
