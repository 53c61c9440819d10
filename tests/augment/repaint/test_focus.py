"""Focus windows of the published distribution."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from augment.repaint.focus import draw_window, multiple_probabilities

TABLE = [0.0228, 0.1359, 0.3413, 0.3413, 0.1359, 0.0214, 0.0013]  # n = 1..7


def test_multiples_have_the_published_probabilities():
    probabilities = multiple_probabilities()
    assert probabilities[:7] == pytest.approx(TABLE, abs=6e-5)
    assert probabilities.sum() == pytest.approx(1)

    rng = np.random.default_rng(0)
    drawn = Counter(draw_window((1000, 500, 1020, 510), (2048, 1024), rng).multiple for _ in range(20000))
    observed = [*(drawn[n] for n in range(1, 6)), sum(drawn[n] for n in range(6, 13))]
    expected = np.array([*probabilities[:5], probabilities[5:].sum()]) * 20000
    assert chisquare(observed, expected).pvalue > 0.01


def _published_window(box, frame_size, rng):
    """The published rule as it stands: draw everything again until it fits."""
    (x0, y0, x1, y1), (frame_width, frame_height) = box, frame_size
    w, h = x1 - x0, y1 - y0
    area = w * -(-w // 2) if w > 2 * h else 2 * h * h
    while True:
        n = max(1, int(np.ceil(rng.normal(3, 1))))
        if n * area <= frame_width * frame_height:
            break
    side = int(np.ceil(np.sqrt(n * area / 2)))
    place = []
    for low, high, length, end in ((x0, x1, 2 * side, frame_width), (y0, y1, side, frame_height)):
        while True:
            start = int(rng.integers(max(0, low - length), low + 1))
            if start + length >= high and start + length <= end:
                break
        place.append(start)
    return n, *place


def test_windows_are_distributed_as_the_published_loop_draws_them():
    box, frame = (14, 5, 26, 12), (40, 20)  # n = 1..8 fit, and the borders are near
    rng = np.random.default_rng(1)
    ours = Counter()
    for _ in range(6000):
        window = draw_window(box, frame, rng)
        ours[window.multiple, window.x0, window.y0] += 1
    theirs = Counter(_published_window(box, frame, rng) for _ in range(6000))
    places = [place for place in ours.keys() | theirs.keys() if ours[place] + theirs[place] >= 20]
    assert len(places) > 50
    assert chi2_contingency([[one[place] for place in places] for one in (ours, theirs)]).pvalue > 0.01


def test_windows_hold_the_box_and_lie_in_the_frame_whatever_its_shape():
    rng = np.random.default_rng(2)
    none = 0
    for width, height in ((2048, 1024), (256, 128), (640, 480), (500, 500), (300, 700), (101, 51), (2, 1)):
        for _ in range(300):
            x0, x1 = np.sort(rng.choice(width + 1, 2, replace=False)).tolist()
            y0, y1 = np.sort(rng.choice(height + 1, 2, replace=False)).tolist()
            window = draw_window((x0, y0, x1, y1), (width, height), rng)
            if window is None:
                none += 1
                smallest = max(y1 - y0, -(-(x1 - x0) // 2))
                assert (width, height) not in ((2048, 1024), (256, 128), (2, 1))
                assert 2 * smallest > width or smallest > height
                continue
            assert window.width == 2 * window.height
            assert 0 <= window.x0 <= x0 and x1 <= window.x0 + window.width <= width
            assert 0 <= window.y0 <= y0 and y1 <= window.y0 + window.height <= height
    assert none > 100  # on square, 4:3 and upright frames


def test_a_box_outside_its_frame_is_refused():
    for box in ((5, 5, 5, 9), (-1, 0, 4, 4), (0, 0, 257, 4)):
        with pytest.raises(ValueError, match="256x128"):
            draw_window(box, (256, 128), np.random.default_rng(0))
