"""Who is labelled next."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import prediction
from tsp_model.acquisition import STRATEGIES, NonFiniteScoreError, core_set, mc_dropout, pick
from tsp_model.inference import predict
from tsp_model.network import tsp_mask_rcnn
from tsp_model.predictions import Prediction
from tsp_model.settings import STRATEGY_NAMES, Settings, SettingsError

LN2 = math.log(2)
UNIT = st.floats(0, 1)


def noted(
    key: str, triplets=(), features=(0.0, 0.0), certainty: float | None = 0.5, predicted_loss: float = 1.0
) -> Prediction:
    """A prediction with what every strategy wants to be noted."""
    signals = {"features": list(features), "certainty": certainty, "predicted_loss": predicted_loss}
    return replace(prediction(key, triplets), signals=signals)


POOL = [
    noted("sure", [(0.95, 0.95, 0.95)], (0, 0), 0.9),
    noted("torn", [(0.95, 0.5, 0.1)], (1, 0), 0.2),
    noted("middling", [(0.6, 0.6, 0.6)], (0, 5), 0.4),
    noted("empty", [], (1, 1), None),
]


def ranked(strategy: str, pool=POOL, labelled=(), seed: int = 0) -> np.ndarray:
    return STRATEGIES[strategy].rank(pool, labelled, np.random.default_rng(seed))


def order(strategy: str, pool=POOL, labelled=()) -> list[str]:
    scores = ranked(strategy, pool, labelled)
    return pick(dict(zip([p.key for p in pool], scores.tolist(), strict=True)), len(pool), seed=0)


def test_tsp_asks_for_the_torn_image_first_and_the_sure_ones_last():
    assert order("tsp") == ["torn", "middling", "sure", "empty"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("cbm", ["mask", "box", "class"]),
        ("cm", ["mask", "class", "box"]),
        ("cb", ["box", "class", "mask"]),
        ("c", ["class", "box", "mask"]),
    ],
)
def test_tsp_by_parts_looks_at_no_other_score(parts, expected):
    # (c, b, m); each image is torn in what it is named after, S in c, cb, cm, cbm falls with the lowest that counts
    scores = {"class": (0.6, 0.95, 0.95), "box": (0.92, 0.3, 0.95), "mask": (0.95, 0.95, 0.1)}
    pool = []
    for name, triplet in scores.items():
        pool.append(Prediction.from_detections(name, scored([triplet]), Settings(score_parts=parts)))
    assert order("tsp", pool) == expected


def test_entropy_asks_for_the_undecided_class_first():
    # H(0.95) = 0.1985, H(0.6) = 0.6730 nats; the empty image is surely background
    assert ranked("entropy") == pytest.approx([-0.1985, -0.1985, -0.6730, 0], abs=1e-4)
    almost = replace(prediction("almost", []), max_class_score=0.5)
    two = prediction("two", [(0.5, 0.9, 0.9), (0.95, 0.9, 0.9)])
    assert ranked("entropy", [almost, two]) == pytest.approx([-0.6931, -(0.6931 + 0.1985) / 2], abs=1e-4)


def test_dropout_asks_for_the_least_certain_first():
    assert order("mc_dropout") == ["torn", "middling", "sure", "empty"]
    almost = replace(noted("almost", certainty=None), max_class_score=0.7)
    assert ranked("mc_dropout", [almost]) == pytest.approx([0.3])


def test_learning_loss_asks_for_the_highest_predicted_loss_first():
    losses = {"a": 0.1, "b": 3.0, "c": -2.0}
    pool = [replace(prediction(key, []), signals={"predicted_loss": loss}) for key, loss in losses.items()]
    assert order("learning_loss", pool) == ["b", "a", "c"]


def test_core_set_goes_to_the_farthest_from_all_that_is_covered():
    # from (0, 0): (0, 5) is farthest; then (1, 1) at sqrt(2), then (1, 0) at 1, last the labelled place itself
    assert order("core_set", labelled=[noted("labelled")]) == ["middling", "empty", "torn", "sure"]
    # with (1, 1) labelled, too, (1, 0) and (0, 0) are 1 and 1 away: the first in the pool wins
    assert order("core_set", labelled=[noted("a"), noted("b", features=(1, 1))])[0] == "middling"


def test_farthest_first_is_the_greedy_cover():
    points = np.array([[0.0], [1.0], [4.0], [10.0], [10.5]], dtype=np.float32)
    assert core_set.farthest_first(points, np.array([[0.0]], dtype=np.float32)).tolist() == [4, 2, 1, 3, 0]
    # none labelled: 10.5 and then its opposite, 0
    assert core_set.farthest_first(points, points[:0]).tolist()[:2] == [4, 0]
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3)).astype(np.float32)
    chosen = core_set.farthest_first(points, points[:0])
    gaps = [min(np.linalg.norm(points[chosen[i]] - points[chosen[j]]) for j in range(i)) for i in range(1, len(points))]
    assert gaps[1:] == sorted(gaps[1:], reverse=True), "each radius is at most the last"
    assert core_set.farthest_first(points[:1], points[:0]).tolist() == [0]


def test_diversity_gives_each_kind_labels_in_proportion_to_its_size():
    # Two groups, for ten images are sqrt(10 / 2) = 2: eight images near (0, 0), two far away that are the least sure.
    common = [noted(f"common{i}", [(0.9, 0.9, 0.5 + i / 20)], (i / 10, 0)) for i in range(7)]
    rare = [noted(f"rare{i}", [(0.9, 0.1, 0.1 + i / 20)], (50, i / 10)) for i in range(2)]
    labelled = [noted("labelled", features=(0.05, 0.05))]
    pool = [*rare, *common[::-1]]
    assert order("tsp", pool)[:2] == ["rare0", "rare1"]
    # one of eight is labelled: 1.5/8, 2.5/8, 3.5/8 ... beside 0.5/2 and 1.5/2
    expected = dict(zip([one.key for one in common], [(i + 1.5) / 8 for i in range(7)], strict=True))
    expected |= {"rare0": 0.25, "rare1": 0.75}
    scores = ranked("tsp_diverse", pool, labelled)
    assert dict(zip([one.key for one in pool], scores, strict=True)) == pytest.approx(expected)
    assert order("tsp_diverse", pool, labelled)[:4] == ["common0", "rare0", "common1", "common2"]


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(UNIT, UNIT, UNIT), max_size=3),
            st.tuples(UNIT, UNIT),
            st.none() | UNIT,
            st.floats(-100, 100),
        ),
        max_size=6,
    ),
    st.integers(0, 3),
    st.sampled_from(STRATEGY_NAMES),
)
def test_every_strategy_is_finite_repeatable_and_orders_every_image(images, labelled, strategy):
    pool = [noted(str(i), *values) for i, values in enumerate(images)]
    known = [noted(f"labelled{i}", features=(i, i)) for i in range(labelled)]
    once, again = (ranked(strategy, pool, known, seed=5) for _ in range(2))
    assert once.shape == (len(pool),)
    assert np.isfinite(once).all()
    assert once.tolist() == again.tolist()
    keys = [one.key for one in pool]
    assert sorted(pick(dict(zip(keys, once.tolist(), strict=True)), len(pool), seed=1)) == sorted(keys)
    if strategy == "core_set":  # it picks one image after the other: no place is given twice
        assert len(set(once.tolist())) == len(pool)


@given(
    st.lists(st.lists(st.tuples(UNIT, UNIT, UNIT), max_size=3), max_size=5),
    st.sampled_from(["c", "cm", "cb", "cbm"]),
    st.floats(Settings().score_threshold, 0.9),  # a lower one is refused
)
def test_tsp_by_any_parts_is_finite_and_orders_every_image(images, parts, threshold):
    settings = Settings(score_parts=parts, ranking_score_threshold=threshold)
    pool = [Prediction.from_detections(str(i), scored(triplets), settings) for i, triplets in enumerate(images)]
    scores = ranked("tsp", pool)
    assert np.isfinite(scores).all() and ((scores >= 0) & (scores <= 1)).all()
    assert sorted(order("tsp", pool)) == sorted(one.key for one in pool)


def scored(triplets: list[tuple[float, float, float]]) -> dict[str, object]:
    """Detections with such (c, b, m), as the network gives them."""
    found = detections([[0.0, 0.0, 4.0, 4.0]] * len(triplets), [LN2] * len(triplets))
    found |= {"labels": torch.ones(len(triplets), dtype=torch.int64)}
    columns = torch.tensor(triplets, dtype=torch.float32).reshape(-1, 3).T
    found |= dict(zip(("scores", "box_scores", "mask_scores"), columns, strict=True))
    return found | {"max_class_score": max((c for c, _, _ in triplets), default=0.0)}


def detections(boxes: list[list[float]], entropies: list[float]) -> dict[str, object]:
    """Objects that fill their boxes, in an image of 40 x 40."""
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "entropies": torch.tensor(entropies),
        "masks": torch.stack([filled(box) for box in boxes]) if boxes else torch.zeros(0, 1, 40, 40),
    }


def filled(box: list[float]) -> torch.Tensor:
    left, top, right, bottom = map(int, box)
    mask = torch.zeros(1, 40, 40)
    mask[:, top:bottom, left:right] = 1
    return mask


def test_certainty_by_hand():
    box = [0.0, 0.0, 10.0, 10.0]
    same = detections([box], [0.0])
    assert mc_dropout.certainty([same, same], LN2, 0.5) == pytest.approx(1)
    # there in one pass of two: occurrence 1/2
    assert mc_dropout.certainty([same, detections([], [])], LN2, 0.5) == pytest.approx(0.5)
    # one of two passes is as undecided as can be: class 1/2
    assert mc_dropout.certainty([same, detections([box], [LN2])], LN2, 0.5) == pytest.approx(0.5)
    # 10 and 20 wide: the mean box is 15 wide, IoU 2/3 and 3/4; the mean mask holds what one of two holds: 1/2 and 1
    wide = detections([[0.0, 0.0, 20.0, 10.0]], [0.0])
    moved = mc_dropout.certainty([detections([[0.0, 0.0, 11.0, 10.0]], [0.0]), wide], LN2, 0.5)
    boxes = (11 / 15.5 + 15.5 / 20) / 2
    assert moved == pytest.approx(boxes * (0.55 + 1) / 2, abs=1e-5)
    assert mc_dropout.certainty([detections([], [])] * 2, LN2, 0.5) is None
    # two objects, one sure and one seen once: the mean
    two = detections([box, [20.0, 20.0, 30.0, 30.0]], [0.0, 0.0])
    assert mc_dropout.certainty([same, two], LN2, 0.5) == pytest.approx((1 + 0.5) / 2)


def test_scoring_notes_what_a_strategy_reads_and_changes_nothing_else():
    torch.manual_seed(0)
    model = tsp_mask_rcnn(3, "tiny", image_size=64, dropout=0.3, learning_loss=True)
    images = list(torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    plain = list(predict(model, images))
    settings = Settings(strategy="mc_dropout", dropout=0.3, mc_passes=3, ranking_score_threshold=0.2)
    for name in ("learning_loss", "mc_dropout", "core_set"):
        observer = STRATEGIES[name].observe
        once, again = (list(predict(model, images, observe=observer(settings))) for _ in range(2))
        for one, other, bare in zip(once, again, plain, strict=True):
            assert one["signals"] == other["signals"], "the same seed drops the same"
            assert torch.equal(one["scores"], bare["scores"])
    assert not model.training
    assert len(once[0]["signals"]["features"]) == 64
    with pytest.raises(SettingsError, match="set dropout"):
        Settings(strategy="mc_dropout")
    with pytest.raises(SettingsError, match="raise batch_size"):
        Settings(strategy="learning_loss", batch_size=1)


BOX = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 19), st.integers(1, 19))


@given(st.lists(st.lists(st.tuples(BOX, st.floats(0, LN2)), max_size=3), min_size=1, max_size=4))
def test_certainty_is_a_share_whatever_the_passes_find(passes):
    found = []
    for one in passes:
        boxes = [[float(x), float(y), float(x + w), float(y + h)] for (x, y, w, h), _ in one]
        found.append(detections(boxes, [entropy for _, entropy in one]))
    certainty = mc_dropout.certainty(found, LN2, 0.5)
    assert (certainty is None) == (not any(passes))
    assert certainty is None or 0 <= certainty <= 1 + 1e-6


def test_dropout_computes_the_features_of_a_batch_once():
    torch.manual_seed(0)
    model, calls = tsp_mask_rcnn(3, "tiny", image_size=64, dropout=0.3), []
    model.backbone.register_forward_hook(lambda *args: calls.append(1))
    settings = Settings(strategy="mc_dropout", dropout=0.3, mc_passes=5)
    images = list(torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    list(predict(model, images, batch_size=3, observe=mc_dropout.observer(settings)))
    assert len(calls) == 2


def test_random_depends_on_the_seed_only():
    orders = {tuple(np.argsort(ranked("random", seed=seed)).tolist()) for seed in range(20)}
    assert len(orders) > 5


def test_ties_fall_by_key_and_seed_whatever_the_order():
    keys = [f"image-{i}" for i in range(20)]
    first = pick(dict.fromkeys(keys, 0.5), 5, seed=1)
    assert pick(dict.fromkeys(reversed(keys), 0.5), 5, seed=1) == first
    assert pick(dict.fromkeys(keys, 0.5), 5, seed=2) != first
    assert pick(dict.fromkeys(keys, 0.5) | {"image-7": 0.4}, 1, seed=1) == ["image-7"]


@pytest.mark.parametrize("signals", [{}, {"features": [0.5, float("nan")]}, {"predicted_loss": float("inf")}])
def test_a_network_that_says_no_number_is_refused_with_the_image(signals):
    found = detections([[0.0, 0.0, 4.0, 4.0]], [LN2]) | {"labels": torch.tensor([1])}
    found |= {name: torch.tensor([0.5]) for name in ("scores", "box_scores", "mask_scores")}
    found |= {"max_class_score": 0.5 if signals else float("nan"), "signals": signals}
    name = next(iter(signals), "max_class_score")
    with pytest.raises(ValueError, match=f"image scan-7.png is not finite \\({name}.*train it again"):
        Prediction.from_detections("scan-7.png", found, Settings())


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(NonFiniteScoreError, match="bad"):
        pick({"good": 0.1, "bad": float("nan")}, 1, seed=0)
