"""Who is labelled next."""

from dataclasses import replace

import numpy as np
import pytest

from tests.builders import prediction
from tsp_model.acquisition import STRATEGIES, pick

POOL = [
    prediction("sure", [(0.95, 0.95, 0.95)]),
    prediction("torn", [(0.95, 0.5, 0.1)]),
    prediction("middling", [(0.6, 0.6, 0.6)]),
    prediction("empty", []),
]


def test_tsp_asks_for_the_torn_image_first_and_the_sure_ones_last():
    scores = STRATEGIES["tsp"](POOL, [], np.random.default_rng(0))
    picked = pick(dict(zip([p.key for p in POOL], scores, strict=True)), 4, seed=0)
    assert picked == ["torn", "middling", "sure", "empty"]


def test_entropy_asks_for_the_undecided_class_first():
    scores = STRATEGIES["entropy"](POOL, [], np.random.default_rng(0))
    # H(0.95) = 0.1985, H(0.6) = 0.6730 nats; the empty image is surely background
    assert scores == pytest.approx([-0.1985, -0.1985, -0.6730, 0], abs=1e-4)
    almost = replace(prediction("almost", []), max_class_score=0.5)
    torn = prediction("two", [(0.5, 0.9, 0.9), (0.95, 0.9, 0.9)])
    scores = STRATEGIES["entropy"]([almost, torn], [], np.random.default_rng(0))
    assert scores == pytest.approx([-0.6931, -(0.6931 + 0.1985) / 2], abs=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_finite_and_repeatable(strategy):
    once, again = (STRATEGIES[strategy](POOL, ["x"], np.random.default_rng(5)) for _ in range(2))
    assert np.isfinite(once).all()
    assert once.tolist() == again.tolist()
    assert STRATEGIES[strategy]([], [], np.random.default_rng(5)).shape == (0,)


def test_random_depends_on_the_seed_only():
    orders = {
        tuple(np.argsort(STRATEGIES["random"](POOL, [], np.random.default_rng(seed))).tolist()) for seed in range(20)
    }
    assert len(orders) > 5


def test_ties_fall_by_key_and_seed_whatever_the_order():
    keys = [f"image-{i}" for i in range(20)]
    first = pick(dict.fromkeys(keys, 0.5), 5, seed=1)
    assert pick(dict.fromkeys(reversed(keys), 0.5), 5, seed=1) == first
    assert pick(dict.fromkeys(keys, 0.5), 5, seed=2) != first
    assert pick(dict.fromkeys(keys, 0.5) | {"image-7": 0.4}, 1, seed=1) == ["image-7"]


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="bad"):
        pick({"good": 0.1, "bad": float("nan")}, 1, seed=0)
