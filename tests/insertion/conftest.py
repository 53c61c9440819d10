"""A data set, its bank and a transform that inserts into each sample."""

import pytest

from insertion import InsertInstances, make_bank
from tests.insertion.sampled import LOOSE


@pytest.fixture(scope="module")
def source(behind_cars):
    return behind_cars


@pytest.fixture(scope="module")
def bank(source, tmp_path_factory):
    return make_bank(source, "train", tmp_path_factory.mktemp("bank") / "bank.npz")


@pytest.fixture(scope="module")
def transform(checkpoint, bank):
    return InsertInstances(checkpoint, (1, 3), 1.0, bank=bank, filters=LOOSE)
