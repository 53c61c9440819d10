"""A tree that the tests of this folder read; whoever changes it copies it first."""

from pathlib import Path

import pytest

from tests.mini_frames import write_mini


@pytest.fixture(scope="package")
def tree(tmp_path_factory) -> Path:
    """The tree of `write_mini`, twice as large."""
    root = tmp_path_factory.mktemp("mini")
    write_mini(root, 512, 256)
    return root
