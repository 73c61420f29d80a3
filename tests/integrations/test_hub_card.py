"""The page of a model: the Hub's own reader takes its keys, and its words say what is known."""

import pytest
from huggingface_hub import ModelCard

from convflow.evaluation.card import Card
from convflow.integrations.hub_card import TASK, HubPage
from tests.integrations.models import create_pipe


def card(**scores):
    return Card(
        model={}, sampling=None, pictures={"count": 2000}, detector={"name": "inception"},
        reference={"name": "pets", "count": 900}, metrics={}, library={}, machine={}, scores=scores,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return create_pipe("dico")


def test_the_keys_are_read_by_the_hub(pipe):
    samples = (("", "samples.png"), ("cat", "samples/000.png"), ("", "samples/001.png"))
    page = HubPage(
        "me/pets", "mit", ("me/photos",), cards=(card(**{"FID-2k": 12.5}),), samples=samples
    )
    data = ModelCard(page.text(pipe)).data.to_dict()
    assert data["license"] == "mit"
    assert data["library_name"] == "convflow"
    assert data["pipeline_tag"] == TASK
    assert {"convflow", "dico", "flow", "class-conditional"} <= set(data["tags"])
    assert data["datasets"] == ["me/photos"]
    assert data["metrics"] == ["fid"]
    assert data["thumbnail"].endswith("/me/pets/resolve/main/samples.png")
    assert data["widget"][0] == {"text": "cat", "output": {"url": "samples/000.png"}}
    (model,) = data["model-index"]
    assert model["name"] == "pets"
    (result,) = model["results"]
    assert result["dataset"] == {"name": "pets", "type": "pets"}
    assert result["metrics"] == [{"type": "fid", "value": 12.5, "name": "FID-2k"}]


def test_each_score_has_a_type_of_its_own(pipe):
    titles = ["FID", "KD-1k", "KD-std-1k", "IS-1797", "video-FD-2k", "frame-FID"]
    page = HubPage("me/pets", cards=(card(**dict.fromkeys(titles, 1.0)),))
    data = ModelCard(page.text(pipe)).data.to_dict()
    types = ["fid", "kd", "kd-std", "is", "video-fd", "frame-fid"]
    metrics = data["model-index"][0]["results"][0]["metrics"]
    assert [(one["type"], one["name"]) for one in metrics] == list(zip(types, titles, strict=True))
    assert data["metrics"] == types


def test_the_words_follow_what_is_known(pipe):
    bare = HubPage("me/pets").text(pipe)
    assert "license: unknown" in bare
    assert "were not at hand" in bare
    assert "No result card was given" in bare
    assert "Nobody has looked" in bare
    assert "cat, dog, hen" in bare
    assert "multiples of 4" in bare
    assert "trust_remote_code" not in bare
    training = {"batch_size": 64, "optim.lr": 1e-4}
    nearest = {"verdict": "none", "training_images": 900, "nearest": [["a"]] * 16}
    full = HubPage(
        "me/pets", training=training, images_seen=12800, curve=True, nearest=nearest,
        cards=(card(**{"FID-2k": 12.5}),), own_code=True,
    ).text(pipe)  # fmt: skip
    assert "| images seen | 12,800 |" in full
    assert "| batch size | 64 |" in full
    assert "training/loss.png" in full
    assert "compared 16 samples with 900 training images. It found no copies." in full
    assert "2,000 samples were compared with pets" in full
    assert "| FID-2k | 12.5 | lower is better |" in full
    assert "trust_remote_code=True" in full


def test_the_commands_work_for_a_branch_and_for_code_of_its_own(pipe):
    samples = (("", "samples.png"),)
    text = HubPage("me/pets", revision="v2", samples=samples).text(pipe)
    assert "convflow sample me/pets@v2 --num" in text
    assert 'from_pretrained("me/pets", revision="v2")' in text
    assert "resolve/v2/samples.png" in text
    text = HubPage("me/pets", own_code=True).text(pipe)
    assert "convflow sample" not in text  # it runs no code of a repository
    assert 'from_pretrained("me/pets", trust_remote_code=True)' in text


def test_a_folder_for_diffusers_is_used_with_diffusers(pipe):
    text = HubPage("me/pets", library="diffusers").text(pipe)
    assert "from diffusers import DiffusionPipeline" in text
    assert "library_name: diffusers" in text
    assert "convflow sample" not in text
