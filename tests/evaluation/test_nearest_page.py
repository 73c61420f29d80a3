"""The page of nearest training images: whole, escaped, sorted."""

import json
import re

import numpy as np
import torch
from PIL import Image

from convflow.evaluation.nearest import Distance, find_nearest, judge, near_copies, pixel_features
from convflow.evaluation.nearest_page import Finding, NearestPage


def page(copied=True, name="<b>&.png"):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 3, 8, 8), dtype=torch.uint8, generator=generator)
    training, unseen = images[:30], images[30:50]
    samples = torch.cat([images[50:53], training[:5] if copied else images[53:58]])
    pixels = Distance("pixels", "levels", pixel_features)
    queries = [(samples, None), (unseen, None)]
    ((ours, theirs),) = find_nearest(
        queries, np.arange(30), lambda n: training[torch.tensor(n)], [pixels]
    )
    verdict = judge(ours, theirs)
    return NearestPage(
        "runs/<x>",
        "a & b",
        30,
        "20 images",
        [Finding(pixels, ours, theirs, near_copies(ours, theirs), verdict)],
        samples,
        ["cat"] * 8,
        training[ours.places],
        [[f"{name}{place}" for place in row] for row in ours.places.tolist()],
    )


def test_a_page_that_needs_nothing_else(tmp_path):
    made = page()
    paths = made.write(tmp_path / "deep" / "copies.html")
    assert [path.name for path in paths] == ["copies.html", "copies.png", "copies.json"]
    text = paths[0].read_text()
    assert not re.search(r"(src|href)='(?!data:)|<script|<b>|<x>|http", text)
    assert text.count("data:image/png;base64,") == 8 * 4
    assert text.count("class='copy'") == 5
    assert "the model copies: 5 of 8 samples" in text
    assert "&lt;b&gt;&amp;.png" in text
    assert sorted(made.order[:5]) == [3, 4, 5, 6, 7]
    with Image.open(paths[1]) as image:
        assert image.size == (4 * (64 + 4) + 4, 14 + 8 * (64 + 4 + 14))
        pixels = np.asarray(image)
    sample = made.samples[made.order[0]].permute(1, 2, 0).numpy()
    assert (pixels[14 : 14 + 64, 4 : 4 + 64][::8, ::8] == sample).all()
    captions = pixels[14 + 64 : 14 + 64 + 14]
    assert all((captions[:, left : left + 64] < 128).any() for left in range(4, 4 * 68, 68))
    assert text.count("<th>") == 6 + 4
    assert "<caption>Below a sample stands its label" in text


def test_axes_have_numbers_and_names():
    made = page(name="x").html()
    (diagram,) = re.findall("<figure>.*?</figure>", made)
    words = re.findall("<text[^>]*>([^<]*)</text>", diagram)
    assert words[-1] == "distance to the nearest training image (levels)"
    assert {"samples", "references", "0"} <= {*words}
    ends = [float(word) for word in words if re.fullmatch(r"[0-9.e+]+", word)]
    finding = page().comparisons[0]
    farthest = max(float(n.distances[:, 0].max()) for n in (finding.samples, finding.references))
    assert max(ends) == float(f"{farthest:.3g}")
    assert "by pixels: samples above the axis" in diagram


def test_numbers_of_a_page(tmp_path):
    paths = page().write(tmp_path / "copies.html")
    numbers = json.loads(paths[2].read_text())
    assert (numbers["verdict"], numbers["training_images"]) == ("copies", 30)
    assert numbers["distances"]["pixels"]["near_copies"] == [False] * 3 + [True] * 5


def test_what_is_said_of_a_model_that_copies_nothing():
    said = page(copied=False).sentences()
    assert "no sign of copies: samples are as far" in said[0]
    assert said[1].startswith("Of 8 samples, copies that are fewer than about 38%")
