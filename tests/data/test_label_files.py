"""Labels of files beside the images, and every way they may be wrong."""

import json
import unicodedata

import pytest

from convflow.data.class_ids import AUTO, Choice
from convflow.data.label_files import from_listings, read_listings
from convflow.types import InputError

PICTURES = ["a.png", "s/b.png"]
PAIRS = [["a.png", 1], ["s/b.png", 0]]


def labels(files, choice=AUTO, image_files=PICTURES, guess=True):
    """Labels by image, or why there are none, then the sentences."""
    every = [*files, *image_files]
    listings = read_listings(every, image_files, lambda file: files[file].encode(), choice, guess)
    found = from_listings(listings, image_files, every, "here")
    if found is None:
        return None, tuple(note for listing in listings for note in listing.notes)
    names = [found.class_names[i] for i in found.ids] if found.class_names else None
    return names, found.notes


def refuse(words, files, choice=AUTO):
    with pytest.raises(InputError, match=words) as caught:
        labels(files, choice)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [
        {"dataset.json": json.dumps({"labels": PAIRS})},
        {"dataset.json": json.dumps({"labels": dict(PAIRS)})},
        {"metadata.csv": "file_name,label\r\na.png,1\r\n./s\\b.png,0\r\n"},
        {"metadata.csv": "\ufeffid;File;x\n1;a.png;\n2;s/b.png;\n".replace("File", "file")
         .replace(";x", ";class").replace("png;\n2", "png;1\n2").replace("png;\n", "png;0\n")},
        {"metadata.csv": 'text,file_name,target\n"a, ""b""\n",a.png,1\n,s/b.png,0\n\n'},
        {"metadata.jsonl": '{"file_name": "a.png", "label": 1}\n\n'
         '{"file_name": "s/b.png", "label": 0, "text": "t"}'},
        {"metadata.csv": "file_name,label\na.png,1\ns/b.png,7\n",
         "s/metadata.csv": "file_name,label\nb.png,0\n"},
        {"metadata.csv": "file_name,label\na.png,1\n",
         "s/metadata.jsonl": '{"file_name": "b.png", "label": "0"}'},
    ],
)  # fmt: skip
def test_labels_are_read(files):
    assert labels(files)[0] == ["1", "0"]


@pytest.mark.parametrize("cell", [{"bbox": [[1, 2]]}, ["x", "y"]])
def test_cells_of_lists_and_objects_are_no_labels(cell):
    rows = [{"file_name": name, "boxes": cell} for name in PICTURES]
    found = labels({"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    assert found == (None, ("metadata.jsonl: columns not used: boxes",))


def test_names_of_files_and_columns_as_they_come():
    text = "FileName,Label\ncafe\u0301/\u00e9.png,x"
    assert labels({"Metadata.csv": text}, image_files=["caf\u00e9/e\u0301.png"])[0] == ["x"]
    refuse("two columns are called 'label'", {"metadata.csv": "file_name,label,label\na.png,x,y"})
    refuse("none for a.png .2 of 2 have none., but one for /d/a.png".replace("/d", "d"),
           {"metadata.csv": "file_name,label\n/d/a.png,x\n/d/s/b.png,y"})  # fmt: skip


def test_what_is_said():
    names, notes = labels(
        {"metadata.csv": "file_name,kind,author\na.png,p,x\ns/b.png,p,y\nc.png,q,z"}
    )
    assert names is None  # `kind` is not known to be a label: two words in three rows
    assert notes == ("metadata.csv: columns not used: kind, author",)
    text = "file_name,species,author\na.png,p,x\ns/b.png,q,y\nc.png,q,z"
    assert labels({"metadata.csv": text}) == (
        ["p", "q"],
        (
            "labels from column `species` of metadata.csv: 2 classes, p, q",
            "metadata.csv: columns not used: author",
            "1 row names no file that is there: c.png",
        ),
    )
    image_files = [f"{i}/0.png" for i in range(9)]
    files = {f"{i}/metadata.csv": f"file_name,label,author\n0.png,{i},\n" for i in range(9)}
    names, notes = labels(files, image_files=image_files)
    assert names == list("012345678")
    assert (len(notes), notes[-1]) == (5, "6 more")
    assert notes[0].startswith(
        "labels from column `label` of 0/metadata.csv and column `label` of "
    )
    assert labels({"dataset.json": '{"labels": null}'}) == (
        None,
        ("no classes: the model will be unconditional (dataset.json has no labels)",),
    )
    assert labels({"dataset.json": '{"info": 1}'}) == (
        None,
        ("dataset.json is not read: it has no entry 'labels'",),
    )
    assert labels({"metadata.csv": "name,label\na,1"}) == (
        None,
        ("metadata.csv is not read: no file_name in name, label",),
    )
    assert labels({"t/metadata.csv": "not about these images"}) == (None, ())


def test_a_column_that_is_not_called_labels_is_only_offered_beside_classes():
    files = {"metadata.csv": "file_name,kind\na.png,p\ns/b.png,q\nc.png,q\nd.png,p"}
    names, notes = labels(files)
    assert names == ["p", "q"]
    said = "metadata.csv: the column is taken for labels because it alone is text of few words"
    assert said in notes
    assert labels(files, guess=False) == (
        None,
        (
            "metadata.csv: columns not used: kind",
            "metadata.csv: --data.label-column kind would take classes from kind of metadata.csv",
        ),
    )
    assert labels(files, Choice("auto", "kind"), guess=False)[0] == ["p", "q"]
    files = {"metadata.csv": files["metadata.csv"].replace("kind", "License")}
    assert labels(files)[0] is None


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_in_either_form_of_unicode(forms):
    listed, there = (unicodedata.normalize(form, "caf\u00e9.png") for form in forms)
    found = labels({"metadata.csv": f"file_name,label\n{listed},p\n"}, image_files=[there])
    assert found == (["p"], ("labels from column `label` of metadata.csv: 1 class, p",))


def test_the_mark_that_is_most_in_the_header_separates_cells():
    files = {"metadata.csv": "file_name;label, coarse;class\na.png;1,5;p\ns/b.png;2,5;q\n"}
    assert labels(files, Choice("auto", "class"))[0] == ["p", "q"]


def test_columns_that_the_user_names():
    text = "name,fine_label,coarse_label\na.png,p,x\ns/b.png,q,x\n"
    choice = Choice("auto", "fine_label", "name")
    assert labels({"metadata.csv": text}, choice)[0] == ["p", "q"]
    refuse("got fine_label, coarse_label", {"metadata.csv": text}, Choice("auto", "", "name"))
    refuse(
        "label-column: .*'fine_label'",
        {"metadata.csv": text},
        choice._replace(label_column="fine"),
    )
    for named in (Choice("auto", "class"), Choice("auto", "", "name")):
        refuse("with columns, got dataset.json", {"dataset.json": '{"labels": null}'}, named)
    refuse("^image-column: ", {"metadata.csv": text}, Choice("auto", "", "nam"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"dataset.json": "{"}, "a file of labels, got dataset.json: .*; mend it"),
        ({"dataset.json": "[" * 100_000}, "got dataset.json: too many brackets"),
        ({"dataset.json": '{"labels": [1, 2]}'}, "pairs of a file and its label as 'labels'"),
        (
            {"dataset.json": '{"labels": [["a.png", [0.5]], ["s/b.png", [0.1]]]}'},
            r"a.png: expected an integer or text label, got \[0.5\]",
        ),
        (
            {"dataset.json": '{"labels": [["a.png", 0]]}'},
            r"every image of here in dataset.json, got none for s/b.png \(1 of 2",
        ),
        (
            {"metadata.csv": "file_name,label\na.png,1\na.png,2\n"},
            "one label for a.png in metadata.csv, got '1' and '2'",
        ),
        ({"metadata.csv": "file_name,label\na.png,\ns/b.png,1\n"}, "a.png: expected a label"),
        (
            {"metadata.csv": "file_name,label\na.png,1\n\ns/b.png,big, red\n"},
            "metadata.csv: line 4 has 3 cells, the header has 2; mend it",
        ),
        (
            {"metadata.csv": 'file_name,label\na.png,"1\ns/b.png,0\n'},
            "got metadata.csv: .*end of data",
        ),
        ({"metadata.jsonl": "[1]"}, "a line is no object"),
        (
            {
                "metadata.csv": "file_name,label\na.png,1\ns/b.png,2\n",
                "dataset.json": json.dumps({"labels": PAIRS}),
            },
            "one file with labels in a folder, got dataset.json and metadata.csv",
        ),
    ],
)
def test_refusals(files, words):
    refuse(words, files)


def test_bytes_that_are_no_text():
    with pytest.raises(InputError, match=r"got metadata.csv: .*utf-8"):
        read_listings(["metadata.csv"], PICTURES, lambda file: b"\xff\xfe", AUTO)
