"""Images in class folders, for tests of the data."""

import pytest

from tests.data.made import save


@pytest.fixture
def classes(tmp_path):
    folder = tmp_path / "pets"
    save(folder / "class10/a.png", 10)
    save(folder / "class2/deep/er/b.PNG", 20)
    save(folder / "class2/c.JPeG", 30)
    save(folder / "class2/.hidden.png")
    save(folder / ".cache/d.png")
    (folder / "class2/notes.txt").write_text("not an image")
    return folder
