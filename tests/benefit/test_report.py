"""Differences between arms, paired by seed."""

import numpy as np
import pytest

from benefit.options import parse
from benefit.report import difference, rows_of
from tests.programs import as_flags


def test_differences_are_paired_by_seed_with_students_interval():
    found = difference([(0.31, 0.3), (0.42, 0.4), (0.13, 0.1)])
    assert found["mean"] == pytest.approx(0.02)
    assert found["half_width"] == pytest.approx(4.303 * 0.01 / np.sqrt(3), rel=1e-3) and found["pairs"] == 3
    assert difference([(0.3, 0.2)])["half_width"] is None and difference([]) is None


def test_a_seed_that_real_lacks_is_not_compared(tmp_path):
    values = {("real", 0): 0.2, ("all", 0): 0.3, ("all", 1): 0.9}

    def result_of(case, arm):
        ap = values.get((arm, case.seed))
        return ap and {"coco": {"AP": ap, "classes": {"person": {"AP": ap}}}}

    given = {"out": tmp_path, "n": 3, "seeds": 2, "arms": ["real", "all"], "device": "cpu"}
    rows = rows_of(parse(as_flags(given)), result_of)
    assert [row["person"]["mean"] for row in rows] == pytest.approx([0.2, 0.6])
    assert rows[1]["person"]["to_real"]["mean"] == pytest.approx(0.1)
    assert rows[0]["person"]["to_real"] is None
