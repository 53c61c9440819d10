"""Seeds follow from names."""

from support.seeds import seed_of


def test_seeds_follow_from_run_stage_key_and_sample():
    assert seed_of(0, "generate", "ash/000000/000019/26000", 1) == 16302530138248086650
    seeds = {
        seed_of(*one) for one in [(0, "a", "k", 0), (1, "a", "k", 0), (0, "b", "k", 0), (0, "a", "k", 1)]
    }
    assert len(seeds) == 4 and all(0 <= seed < 2**64 for seed in seeds)
