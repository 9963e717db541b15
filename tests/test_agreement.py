"""The arithmetic of scripts.speed.agreement, by hand, and its levers in order."""

import numpy as np
import pytest
import torch

from scripts.speed.agreement import levers, overlap, spearman
from tsp_model.execution import Execution
from tsp_model.settings import Settings


def test_spearman_by_hand() -> None:
    # differences of ranks 0, 1, -1, 0: 1 - 6 * 2 / (4 * 15) = 0.8
    assert spearman(np.array([1.0, 5.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.8)
    assert spearman(np.arange(5), np.arange(5) ** 3) == pytest.approx(1)
    assert spearman(np.arange(5), -np.arange(5)) == pytest.approx(-1)


def test_ties_share_their_rank() -> None:
    # ranks 1.5 1.5 3 with 1 2 3: covariance 1.5, variances 1.5 and 2
    assert spearman(np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1.5 / np.sqrt(1.5 * 2))


def test_overlap_counts_the_lowest_of_both() -> None:
    assert overlap(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.3, 0.1, 0.2, 0.4]), 2) == 0.5
    assert overlap(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.1, 0.3, 0.4]), 2) == 1


def test_the_last_lever_is_what_bfloat16_hardware_gets() -> None:
    steps = list(levers())
    assert steps[0][1] == Execution(device=steps[0][1].device)
    assert steps[-1][1] == Execution.choose(Settings(precision="bfloat16"), steps[-1][1].device)
    assert [own for _, _, own in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1][1].precision == torch.bfloat16
