"""Eq. 2 and 3 against numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tsp_model.scores import empty_image_score, image_score, instance_scores

SCORE = st.floats(0, 1, width=32)


def test_instance_score_by_hand():
    # c, b, m = 0.9, 0.6, 0.3: mean 0.6, population std sqrt((0.09 + 0 + 0.09) / 3) = sqrt(0.06)
    expected = math.exp(-math.sqrt(0.06)) * 0.6
    found = instance_scores(torch.tensor([0.9]), torch.tensor([0.6]), torch.tensor([0.3]))
    assert found.tolist() == pytest.approx([expected])
    assert expected == pytest.approx(0.469647, abs=1e-6)


def test_scores_by_parts_by_hand():
    c, b, m = torch.tensor([0.9]), torch.tensor([0.6]), torch.tensor([0.3])
    assert instance_scores(c, b, m, "c").item() == pytest.approx(0.9)
    # two values: the population's std is half their distance
    assert instance_scores(c, b, m, "cb").item() == pytest.approx(math.exp(-0.15) * 0.75)
    assert instance_scores(c, b, m, "cm").item() == pytest.approx(math.exp(-0.3) * 0.6)


def test_agreement_counts_as_much_as_height():
    agreeing = instance_scores(*(torch.tensor([0.6]) for _ in range(3)))
    scattered = instance_scores(torch.tensor([1.0]), torch.tensor([0.7]), torch.tensor([0.1]))
    assert agreeing.item() == pytest.approx(0.6)
    assert scattered < agreeing


def test_image_score_by_hand():
    # s = 0.8, 0.4: mean 0.6, population std 0.2
    assert image_score(torch.tensor([0.8, 0.4]), 0.0) == pytest.approx(math.exp(-0.2) * 0.6)


def test_image_with_one_instance_has_its_score():
    assert image_score(torch.tensor([0.37]), 0.0) == pytest.approx(0.37)


def test_image_without_an_instance():
    assert image_score(torch.empty(0), 0.83) == 0.83
    assert empty_image_score(0.25, "graded") == pytest.approx(0.75)
    assert empty_image_score(0.25, "zero") == 0.0


@given(st.lists(st.tuples(SCORE, SCORE, SCORE), min_size=1, max_size=8))
def test_scores_stay_between_zero_and_the_mean(triplets):
    c, b, m = torch.tensor(triplets).T
    s = instance_scores(c, b, m)
    assert torch.isfinite(s).all()
    assert (s >= 0).all()
    assert (s <= (c + b + m) / 3 + 1e-6).all()
    order = [2, 0, 1]
    shuffled = torch.tensor(triplets)[:, order].T
    assert torch.allclose(instance_scores(*shuffled), s, atol=1e-6)
    assert 0 <= image_score(s, 0.0) <= s.mean() + 1e-6
