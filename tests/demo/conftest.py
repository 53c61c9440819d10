"""A page's models and scenes, and a session in one of them."""

import pytest
import torch

from demo.options import DemoOptions
from demo.state import Wishes, begin
from demo.studio import Studio
from tests.town import write_density_checkpoint, write_town

FREE = (180.5, 100.5)  # a foot on the road where a person of the checkpoint's size is plausible
WISHES = Wishes("person")


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    write_town(root / "town")
    model = write_density_checkpoint(root / "person")
    torch.set_num_threads(1)
    return Studio(
        DemoOptions(
            (str(model),),
            db_root=str(root / "town"),
            split="train",
            bank=str(root / "bank.npz"),
            device="cpu",
        )
    )


@pytest.fixture
def begun(studio):
    return begin(studio.scene(0))
