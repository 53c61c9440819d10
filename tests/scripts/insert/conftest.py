"""A town to insert into, a model, and the tree that most tests of scripts.insert look at."""

import pytest

from tests.equality import files_in
from tests.programs import run_ok
from tests.scripts.insert.inserting import COMMAND, FRAMES, insert
from tests.town import write_town


@pytest.fixture(scope="package")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("town")
    write_town(root, FRAMES)
    write_town(root, 1, "val")
    return root


@pytest.fixture(scope="package")
def out(source, checkpoint, tmp_path_factory):
    """The tree that most tests look at."""
    before = files_in(source)
    out = tmp_path_factory.mktemp("out") / "tree"
    arguments = ("--checkpoint", checkpoint, "--db_root", source, "--out", out, *COMMAND)
    run_ok(insert, *arguments, "--coco", "--preview", 2)
    assert files_in(source) == before
    return out
