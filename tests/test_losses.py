"""Eq. 1, 4 and 5 as functions: numbers worked by hand, and what must not change them."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.builders import square
from tsp_model import losses


def test_rpn_losses_by_hand():
    # two positives, two negatives, logits 0: each costs ln 2; smooth l1 with beta 1/9 of a deviation of 1 is 1 - 1/18
    deltas = torch.zeros(4, 4)
    deltas[0, 0] = 1.0
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])
    classification, box = losses.rpn_losses(torch.zeros(4), deltas, labels, torch.zeros(4, 4))
    assert classification.item() == pytest.approx(math.log(2))
    assert box.item() == pytest.approx((1 - 1 / 18) / 4)


@pytest.mark.parametrize(("normaliser", "count"), [("sampled", 4), ("positive", 2)])
def test_pseudo_rpn_loss_counts_only_positive_anchors(normaliser, count):
    objectness = torch.tensor([0.5, -0.5, 3.0, -7.0])
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0])
    arguments = (torch.zeros(4, 4), labels, torch.zeros(4, 4), True, normaliser)
    classification, _ = losses.rpn_losses(objectness, *arguments)
    expected = (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(0.5))) / count
    assert classification.item() == pytest.approx(expected)
    # an object without a pseudo label is a negative anchor: whatever the network says of it, the loss stays
    changed, _ = losses.rpn_losses(torch.tensor([0.5, -0.5, -9.0, 9.0]), *arguments)
    assert changed.item() == classification.item()


def test_roi_losses_by_hand():
    logits = torch.zeros(3, 4)
    regression = torch.zeros(3, 16)
    regression[0, 8:12] = torch.tensor([1.0, 0, 0, 0])  # class 2, the RoI's own
    regression[0, 4:8] = 5.0  # another class: no influence
    labels = torch.tensor([2, 0, 0])
    classification, box = losses.roi_losses(logits, regression, labels, torch.zeros(3, 4), 6, 3)
    assert classification.item() == pytest.approx(3 * math.log(4) / 6)
    assert box.item() == pytest.approx((1 - 1 / 18) / 3)


def test_empty_groups_give_a_zero_with_a_graph():
    logits = torch.zeros(0, 4, requires_grad=True)
    regression = torch.zeros(0, 16, requires_grad=True)
    parts = losses.roi_losses(logits, regression, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 0, 0)
    scores = torch.zeros(0, requires_grad=True)
    total = sum(parts) + losses.iou_loss(scores, torch.zeros(0))
    total.backward()
    assert total.item() == 0
    assert logits.grad.shape == (0, 4)


def test_iou_loss_is_the_mean_square_without_a_half_and_its_target_is_detached():
    target = torch.tensor([0.5, 1.0], requires_grad=True)
    predicted = torch.tensor([0.7, 0.4], requires_grad=True)
    loss = losses.iou_loss(predicted, target)
    assert loss.item() == pytest.approx((0.04 + 0.36) / 2)
    loss.backward()
    assert target.grad is None
    assert predicted.grad.tolist() == pytest.approx([0.2, -0.6])


def test_paired_box_iou_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 1, 1]])
    others = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [5, 5, 6, 6]])
    assert losses.paired_box_iou(boxes, others).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


def test_area_outside_counts_what_the_roi_cuts_off():
    masks = torch.stack([square(10, 10, 20), square(40, 40, 4)])
    rois = torch.tensor([[10.0, 10, 30, 30], [10, 10, 20, 30], [0, 0, 64, 64], [0, 0, 10, 10]])
    outside = losses.area_outside(masks, torch.tensor([0, 0, 1, 1]), rois, grid=10)
    # cells: 4, 2, 40.96 and 1 pixels; left out: 0, half of 400, 0 and all of 16
    assert outside.tolist() == pytest.approx([0, 200 / 2, 0, 16])


def test_mask_target_falls_when_the_roi_cuts_the_object_off():
    mask = square(10, 10, 20)[None]
    rois = torch.tensor([[10.0, 10, 30, 30], [10, 10, 20, 30]])
    matched = torch.tensor([0, 0])
    outside = losses.area_outside(mask, matched, rois, grid=8)
    full = torch.ones(2, 8, 8, dtype=torch.bool)  # inside either RoI the object fills the grid, and so does the mask
    assert losses.mask_iou_target(full, full, outside).tolist() == pytest.approx([1.0, 0.5])


def test_mask_target_of_nothing_is_zero():
    nothing = torch.zeros(1, 8, 8, dtype=torch.bool)
    assert losses.mask_iou_target(nothing, nothing, torch.zeros(1)).tolist() == [0.0]


def test_supervised_loss_sums_the_terms_of_eq_1():
    terms = {name: torch.tensor(float(i)) for i, name in enumerate(losses.SUPERVISED_TERMS)}  # 0 + 1 + 2 + 3 + 4
    terms |= {"loss_box_iou": torch.tensor(10.0), "loss_mask_iou": torch.tensor(20.0)}
    assert losses.supervised_loss(terms).item() == 40
    assert losses.supervised_loss(terms, iou_loss_weight=0.5).item() == 25
    assert losses.semi_supervised_loss(terms).item() == 10


def test_gradient_of_eq_5_is_the_weighted_sum_of_its_parts():
    weight = torch.randn(5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    supervised, semi = F.softplus(weight).sum(), (weight**2).sum()
    [both] = torch.autograd.grad(losses.total_loss(supervised, semi, 0.01), weight, retain_graph=True)
    [first], [second] = (torch.autograd.grad(part, weight) for part in (supervised, semi))
    assert torch.allclose(both, first + 0.01 * second)


def test_the_ranking_loss_of_pairs_by_hand():
    predicted = torch.tensor([1.0, 0.5, 0.0, 3.0, 9.0], requires_grad=True)
    # first above second by 0.5, the margin is 1: 0.5; second above first by 3: 0; the fifth has no partner
    found = losses.loss_ranking(predicted, torch.tensor([2.0, 1.0, 1.0, 2.0, 0.0]))
    assert found.item() == pytest.approx(0.25)
    found.backward()
    assert predicted.grad.tolist() == [-0.5, 0.5, 0.0, 0.0, 0.0]
    # the wrong way round: 1 + 0.5 and 1 + 3
    assert losses.loss_ranking(predicted, torch.tensor([1.0, 2.0, 2.0, 1.0, 0.0])).item() == pytest.approx(2.75)
    assert losses.loss_ranking(predicted[:1], torch.tensor([1.0])).item() == 0
