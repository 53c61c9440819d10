"""Variables of launchers: what they mean, and which mean nothing."""

import pytest
import torch

import distributed
from distributed import choose_device, joined
from engine.shards import shard_of_process
from support.errors import InputError
from support.launch import Ranks, launched

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PAIR = {"RANK": "1", "WORLD_SIZE": "2"}
ARRAY = "SLURM_ARRAY_TASK_"


@pytest.fixture
def environment(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def change(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.mark.parametrize(
    ("values", "ranks"),
    [
        ({}, Ranks()),
        (dict.fromkeys(NAMES, ""), Ranks()),
        ({"RANK": "0"}, Ranks()),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "nosuchhost.invalid"}, Ranks()),
        ({"WORLD_SIZE": "1", "LOCAL_RANK": ""}, Ranks()),
        (PAIR, Ranks(1, 2)),
        (PAIR | {"LOCAL_RANK": "1"}, Ranks(1, 2, 1)),
    ],
)
def test_what_is_meant(environment, values, ranks):
    environment(values)
    assert launched() == ranks
    assert str(shard_of_process()) == f"{ranks.rank + 1}/{ranks.count}"
    if ranks.count == 1:  # it waits for nobody, wherever rank 0 may be
        with joined() as found:
            assert found == Ranks()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"RANK": "3"}, "RANK=3 .* needs a larger WORLD_SIZE, not none"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4 .* needs a larger WORLD_SIZE, not 4"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4 .*, but no RANK"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "needs a larger WORLD_SIZE, not 0"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one in the environment is no whole number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1 in the environment is no whole number"),
        (PAIR | {"LOCAL_RANK": "1.0"}, "LOCAL_RANK=1.0 in the environment is no whole number"),
    ],
)
def test_what_means_nothing_is_refused_by_all_who_ask(environment, values, said, monkeypatch):
    environment(values)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for ask in (launched, shard_of_process, lambda: joined().__enter__(), lambda: choose_device("auto")):
        with pytest.raises(InputError, match=said):
            ask()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (PAIR, "need MASTER_ADDR and MASTER_PORT"),
        (PAIR | {"MASTER_ADDR": "127.0.0.1"}, "need MASTER_ADDR and MASTER_PORT"),
        (PAIR | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "99999"}, "need MASTER_ADDR and MASTER_PORT"),
        (PAIR | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}, "MASTER_PORT=x in the environment"),
        (PAIR | {"MASTER_ADDR": "nosuchhost.invalid", "MASTER_PORT": "29611"}, "not all processes came"),
        (PAIR | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}, "not all processes came"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29613"},
            "not all processes came",
        ),
    ],
)
def test_a_job_that_does_not_come_together_is_one_line_in_time(environment, values, said, monkeypatch, capfd):
    environment(values)
    monkeypatch.setattr(distributed, "RESOLVING", 0)
    monkeypatch.setattr(distributed, "MEETING", distributed.MEETING / 120)
    with pytest.raises(InputError, match=said) as caught, joined():
        pass
    assert "\n" not in str(caught.value) and not capfd.readouterr().err


def test_one_gpu_of_several_is_not_guessed(environment, monkeypatch):
    environment(PAIR)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert str(choose_device("auto")) == "cuda:0"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(InputError, match="no LOCAL_RANK: which of 8 GPUs"):
        choose_device("auto")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ID": "x", "COUNT": "2"}, f"{ARRAY}ID=x in the environment is no whole number"),
        ({"COUNT": "4"}, r"task \(no number\) of a Slurm array of 4"),
        ({"ID": "1", "COUNT": "2", "STEP": ""}, ""),
        ({"ID": "", "COUNT": ""}, ""),
    ],
)
def test_variables_of_slurm_are_read_likewise(environment, values, said):
    environment({ARRAY + name: value for name, value in values.items()})
    if not said:
        shard_of_process()
        return
    with pytest.raises(InputError, match=said):
        shard_of_process()
