"""What an insertion plans for the images of a split."""

from collections import Counter

from augment.placement.plan import plan

NAMES = [f"a_{index:06d}_000019" for index in range(400)]


def test_classes_are_drawn_as_often_as_asked_for():
    counts = Counter(
        name for chosen in plan(NAMES, {"car": 6, "bus": 1, "rider": 3}, 0, (2, 4)) for name in chosen
    )
    total = sum(counts.values())
    assert 1000 < total < 1400
    for name, share in (("car", 0.6), ("bus", 0.1), ("rider", 0.3)):
        assert abs(counts[name] / total - share) < 0.05


def test_a_share_that_is_the_same_for_all_draws_evenly_whatever_it_is():
    assert plan(NAMES, {"car": 1, "bus": 1}, 0, (1, 3)) != plan(NAMES, {"car": 1, "bus": 2}, 0, (1, 3))
    counts = Counter(name for chosen in plan(NAMES, {"car": 1, "bus": 1}, 0, (1, 3)) for name in chosen)
    assert 0.8 < counts["car"] / counts["bus"] < 1.25
    assert "truck" not in {name for chosen in plan(NAMES, {"car": 1, "truck": 0}, 0) for name in chosen}
