"""Segments of masks and of classes, on numbers set by hand."""

import numpy as np
import torch

from label.segments import class_scores, likeliest, of_classes, of_masks

NONE: frozenset[int] = frozenset()


def masks(*rows: str) -> torch.Tensor:
    """(Q,1,W) logits: + belongs to the mask, - does not, . is unsure towards it, each with a weight."""
    weight = {"+": 9.0, "-": -9.0, ".": 0.5}
    return torch.tensor([[[weight[sign] for sign in row]] for row in rows])


def classes(*numbers: int, sure: float = 12.0) -> torch.Tensor:
    """(Q,4) logits of three classes and no object."""
    return torch.nn.functional.one_hot(torch.tensor(numbers), 4) * sure


def same_size(scores: torch.Tensor) -> torch.Tensor:
    return scores


def test_each_pixel_goes_to_the_mask_that_is_surest_of_it():
    found = of_masks(classes(0, 1, 1), masks("+++.------", "----++----", "---------+"), same_size, NONE)
    assert found.keys.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0, 0, 3]]
    assert found.of_key == {1: (0, True), 2: (1, True), 3: (1, True)}


def test_masks_of_nothing_or_of_an_unsure_class_are_left_out():
    unsure = torch.cat([classes(3), classes(1, sure=0.5), classes(2)])
    found = of_masks(unsure, masks("++++", "++++", "+---"), same_size, NONE)
    assert found.keys.tolist() == [[3 - 2, 0, 0, 0]] and found.of_key == {1: (2, True)}
    nothing = of_masks(classes(3, 3), masks("++++", "++++"), same_size, NONE)
    assert not nothing.keys.any() and nothing.keys.shape == (1, 4) and nothing.of_key == {}


def test_a_mask_that_loses_more_than_a_fifth_of_its_pixels_is_left_out():
    scores = torch.cat([classes(0), classes(1, sure=9.0)])  # the first is surer
    kept = of_masks(scores, masks("++--------", "-+++++----"), same_size, NONE)
    assert kept.keys.tolist() == [[1, 1, 2, 2, 2, 2, 0, 0, 0, 0]]  # 4 of 5 are left
    gone = of_masks(scores, masks("+++-------", "-+++++----"), same_size, NONE)
    assert gone.keys.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]] and gone.of_key == {1: (0, True)}


def test_pixels_of_a_class_that_is_left_out_go_to_the_next_mask():
    logits = masks("++++", "-++-")
    scores = torch.cat([classes(0, sure=9.0), classes(1)])
    assert of_masks(scores, logits, same_size, NONE).keys.tolist() == [
        [0, 2, 2, 0]
    ]  # half of the road is lost
    without = of_masks(scores, logits, same_size, frozenset({1}))
    assert without.keys.tolist() == [[1, 1, 1, 1]] and without.of_key == {1: (0, True)}
    of_class = likeliest(class_scores(scores, logits), same_size, NONE)
    assert of_class.tolist() == [[0, 1, 1, 0]]
    assert likeliest(class_scores(scores, logits), same_size, frozenset({1})).tolist() == [[0, 0, 0, 0]]


def test_connected_pieces_of_things_are_instances_and_small_ones_a_group():
    picture = np.zeros((200, 400), np.int32)  # a piece has 4 pixels at least
    picture[10:20, 10:20] = 2
    picture[20:30, 20:30] = 2  # touches it at a corner
    picture[50:60, 50:60] = 2
    picture[100, 100:103] = 2  # too small
    picture[60:90, 200:300] = 1
    found = of_classes(picture, frozenset({2}))
    single = {key for key, (number, one) in found.of_key.items() if one}
    assert sorted(np.count_nonzero(found.keys == key) for key in single) == [100, 200]
    group = found.keys[100, 100]
    assert found.of_key[int(group)] == (2, False) and np.count_nonzero(found.keys == group) == 3
    assert found.of_key[int(found.keys[70, 250])] == (1, False)
    assert all(found.of_key[key] == (2, True) for key in single)
    assert {number for number, _ in found.of_key.values()} == {0, 1, 2}
    plain = of_classes(picture, frozenset())
    assert not any(one for _, one in plain.of_key.values()) and np.array_equal(plain.keys, picture + 1)
