"""A pool in a strategy's order: its scores of 0..1, and where later images find their place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import prediction
from tsp_model.acquisition import STRATEGIES, pick, scored
from tsp_model.predictions import Prediction
from tsp_model.ranking import Ranking
from tsp_model.settings import STRATEGY_NAMES

RELATIVE = [name for name, strategy in STRATEGIES.items() if strategy.place is not None]
UNIT = st.floats(0, 1, width=32)


def noted(key: str, triplets=(), features=(0.0, 0.0), certainty: float | None = 0.5, loss: float = 1.0) -> Prediction:
    """A prediction with what every strategy wants to be noted."""
    signals = {"features": list(features), "certainty": certainty, "predicted_loss": loss}
    return replace(prediction(key, triplets), signals=signals)


def ranking(strategy: str, pool: list[Prediction], labelled=(), seed: int = 0) -> Ranking:
    scores = scored(strategy, [one.key for one in pool], pool, labelled, seed, cycle=2)
    order = pick(scores, len(pool), seed)
    remember = STRATEGIES[strategy].remember
    memory = remember(pool, labelled) if remember else {}
    return Ranking(strategy, seed, 0.3, order, np.array([scores[key] for key in order]), memory)


LOSSES = [noted("a", loss=0.5), noted("b", loss=7.0), noted("c", loss=-3.0), noted("d", loss=0.5)]


def test_scores_are_places_in_the_middle_of_their_share_and_ties_are_broken():
    found = ranking("learning_loss", LOSSES)
    scores = {one.key: found.score(one) for one in LOSSES}
    assert scores["b"] == 1 / 8 and scores["c"] == 7 / 8
    assert sorted((scores["a"], scores["d"])) == [3 / 8, 5 / 8]


@pytest.mark.parametrize(("loss", "score"), [(9.0, 0), (7.0, 1 / 4), (1.0, 1 / 4), (0.5, 3 / 4), (-3.0, 1), (-9.0, 1)])
def test_a_later_image_comes_behind_all_that_score_as_low(loss: float, score: float):
    assert ranking("learning_loss", LOSSES).score(noted("late", loss=loss)) == score


def test_only_detections_that_count_place_a_later_image():
    pool = [noted("torn", [(0.5, 0.5, 0.5)]), noted("sure", [(0.99, 0.9, 0.9)])]
    # entropies 0.69 and 0.06; with its weak detection (0.2: 0.50) the mean of "late" would be 0.35, without it is 0.20
    between = replace(noted("between", [(0.9, 0.9, 0.9)]), key="between")
    found = ranking("entropy", [*pool, between])
    late = noted("late", [(0.95, 0.9, 0.9), (0.2, 0.9, 0.9)])
    assert found.order == ["torn", "between", "sure"]
    assert found.score(late) == 2 / 3


def test_tsp_says_s_itself_of_whatever_image():
    pool = [noted("a", [(0.9, 0.5, 0.1)]), noted("b", [(0.9, 0.9, 0.9)])]
    found = ranking("tsp", pool)
    assert found.order == ["a", "b"]
    assert [found.score(one) for one in (*pool, noted("late"))] == [pool[0].image_score, pool[1].image_score, 1.0]


def test_a_later_image_takes_its_place_in_the_greedy_order():
    # One labelled image at 0; the greedy order is 10 (10 away), 4 (4), 1 (1 away), 9 (1 from 10; behind by position).
    pool = [noted(str(x), features=(x, 0)) for x in (1, 4, 9, 10)]
    found = ranking("core_set", pool, [noted("labelled")])
    assert found.order == ["10", "4", "1", "9"]
    # 20 away: first. 5.5 is 4.5 from 10, more than the 4 that came next. 2 is 2 from both 0 and 4, more than 1.
    places = {20: 0, 5.5: 1, 2: 2, 0: 4, 10: 4}
    assert {x: found.score(noted("late", features=(x, 0))) * 4 for x in places} == places


def test_a_later_image_of_tsp_diverse_takes_its_turn_in_its_group():
    # two groups, of four with one label and of three: 1.5/4, 2.5/4, 3.5/4 and 0.5/3, 1.5/3, 2.5/3
    near = [noted(f"near{i}", [(0.9, 0.9, 0.3 * i + 0.2)], (0, i)) for i in range(3)]
    far = [noted(f"far{i}", [(0.9, 0.9, 0.3 * i + 0.2)], (50, i)) for i in range(3)]
    found = ranking("tsp_diverse", [*near, *far], [noted("labelled")])
    assert found.order == ["far0", "near0", "far1", "near1", "far2", "near2"]
    unsure, between, sure = ([(0.9, 0.9, mask)] for mask in (0.1, 0.4, 0.95))
    assert found.score(noted("late", unsure, (40, 0))) == 0
    assert found.score(noted("late", between, (40, 0))) == 2 / 6, "where far1 is"
    assert found.score(noted("late", sure, (10, 0))) == 1, "after near2, as if there were a 4.5/4"


@given(st.lists(st.tuples(UNIT, UNIT, UNIT), min_size=2, max_size=8, unique=True), st.integers(0, 2), st.data())
def test_what_core_set_takes_out_and_places_again_is_where_it_was(points, labelled, data):
    pool = [noted(str(i), features=point) for i, point in enumerate(points)]
    known = [noted(f"labelled{i}", features=(i / 3, i / 3, i / 3)) for i in range(1, labelled + 2)]
    whole = ranking("core_set", pool, known)
    at = data.draw(st.integers(0, len(pool) - 1))
    without = ranking("core_set", pool[:at] + pool[at + 1 :], known)
    place = without.score(replace(pool[at], key="late")) * len(without.order)
    # Among equals the place of the first one is as good: all of them have the distance with which it was taken.
    reach = whole.memory["reach"]
    assert reach[round(place)] == reach[whole.order.index(str(at))]


@given(
    st.lists(st.tuples(st.lists(st.tuples(UNIT, UNIT, UNIT), max_size=2), st.tuples(UNIT, UNIT)), max_size=6),
    st.sampled_from(STRATEGY_NAMES),
)
def test_label_studios_ascending_order_is_the_strategys_and_a_later_image_has_a_score(images, strategy):
    pool = [noted(str(i), *values) for i, values in enumerate(images)]
    found = ranking(strategy, pool, [noted("labelled")])
    scores = {one.key: found.score(one) for one in pool}
    assert all(0 <= score <= 1 for score in scores.values())
    if strategy == "tsp":
        assert [scores[key] for key in found.order] == sorted(scores.values())
    else:
        assert len(set(scores.values())) == len(pool)
        assert sorted(scores, key=scores.get) == found.order
    assert 0 <= found.score(noted("late", [(0.5, 0.6, 0.7)], (0.2, 0.7))) <= 1


def test_chance_gives_a_later_image_a_score_of_its_own():
    pool = [noted(str(i)) for i in range(50)]
    found = ranking("random", pool, seed=3)
    late = {found.score(noted(f"late{i}")) for i in range(20)}
    assert len(late) > 10
    assert found.score(noted("late0")) == ranking("random", pool, seed=3).score(noted("late0"))


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_it_is_kept_with_a_version(strategy: str, tmp_path: Path):
    pool = [noted(str(i), [(0.9, 0.1 * i, 0.5)], (i, i * i)) for i in range(6)]
    found = ranking(strategy, pool, [noted("labelled")])
    assert Ranking.read(tmp_path) is None
    found.write(tmp_path)
    again = Ranking.read(tmp_path)
    assert again.order == found.order
    for one in (*pool, noted("late", [(0.9, 0.33, 0.5)], (2.5, 3.0))):
        assert again.score(one) == found.score(one)
