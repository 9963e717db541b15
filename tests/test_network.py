"""The network as a whole: gradients, empty cases, batches, size."""

import logging

import pytest
import torch

from tests.builders import SIZE, target
from tsp_model import backbones, complexity
from tsp_model.inference import predict
from tsp_model.losses import supervised_loss
from tsp_model.network import detections_needed, tsp_mask_rcnn
from tsp_model.settings import SettingsError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tsp_mask_rcnn(3, "tiny", image_size=SIZE)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, SIZE, SIZE, generator=generator) for _ in range(2)]


TARGETS = [target((8, 8, 16), (36, 30, 20)), target((20, 20, 12), label=2)]


def iou_head_gradients(model):
    heads = (model.roi_heads.box_iou_head, model.roi_heads.mask_iou_head)
    return [p.grad for head in heads for p in head.parameters()]


def test_pseudo_labelled_images_give_no_gradient_in_the_iou_heads(model, images):
    losses = model(images, TARGETS, pseudo=True)
    assert "loss_box_iou" not in losses
    assert "loss_mask_iou" not in losses
    sum(losses.values()).backward()
    assert all(g is None or not g.any() for g in iou_head_gradients(model))
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.grad.any()


def test_labelled_images_train_both_iou_heads(model, images):
    supervised_loss(model(images, TARGETS)).backward()
    assert all(g is not None and g.any() for g in iou_head_gradients(model))


@pytest.mark.parametrize("normaliser", ["sampled", "positive"])
def test_an_object_without_a_pseudo_label_does_not_change_the_classification_losses(images, normaliser, monkeypatch):
    """Logits of negative anchors and RoIs are shifted at random: Eq. 4 must not see it, Eq. 1 must."""

    def classification(shift, pseudo):
        torch.manual_seed(0)
        model = tsp_mask_rcnn(3, "tiny", image_size=SIZE, semi_normaliser=normaliser)
        heads, rpn = model.roi_heads, model.rpn
        labels_seen = {}
        select, assign = heads.select_training_samples, rpn.assign_targets_to_anchors
        predictor = heads.box_predictor.forward

        def keep_roi_labels(*arguments):
            chosen = select(*arguments)
            labels_seen["roi"] = torch.cat(chosen[2])
            return chosen

        def keep_anchor_labels(anchors, targets):
            assigned = assign(anchors, targets)
            labels_seen["anchor"] = torch.cat(assigned[0])
            return assigned

        def shift_negative_rois(x):
            logits, boxes = predictor(x)
            if len(logits) == len(labels_seen["roi"]):  # with pseudo labels negatives do not even get here
                logits = logits + shift * (labels_seen["roi"] == 0)[:, None] * torch.arange(3.0)
            return logits, boxes

        sample = rpn.fg_bg_sampler
        objectness = {}

        def shift_negative_anchors(labels):
            objectness["logits"] += shift * (labels_seen["anchor"] == 0)[:, None]
            return sample(labels)

        import tsp_model.heads as heads_module

        flatten = heads_module.concat_box_prediction_layers

        def keep_objectness(*arguments):
            flat, deltas = flatten(*arguments)
            objectness["logits"] = flat.detach().clone()
            return objectness["logits"], deltas

        monkeypatch.setattr(heads_module, "concat_box_prediction_layers", keep_objectness)
        heads.select_training_samples = keep_roi_labels
        rpn.assign_targets_to_anchors = keep_anchor_labels
        heads.box_predictor.forward = shift_negative_rois
        rpn.fg_bg_sampler = shift_negative_anchors
        torch.manual_seed(3)
        result = model(images, TARGETS, pseudo=pseudo)
        monkeypatch.undo()
        return [result[name].item() for name in ("loss_objectness", "loss_classifier")]

    assert classification(0.0, pseudo=True) == classification(4.0, pseudo=True)
    plain, shifted = classification(0.0, pseudo=False), classification(4.0, pseudo=False)
    assert plain[0] != shifted[0]
    assert plain[1] != shifted[1]


def test_normalisers_differ_by_the_share_of_positives(images):
    found = {}
    for normaliser in ("sampled", "positive"):
        torch.manual_seed(0)
        model = tsp_mask_rcnn(3, "tiny", image_size=SIZE, semi_normaliser=normaliser)
        torch.manual_seed(3)
        found[normaliser] = model(images, TARGETS, pseudo=True)
    for name in ("loss_objectness", "loss_classifier"):
        assert found["positive"][name] > 2 * found["sampled"][name]
    for name in ("loss_rpn_box_reg", "loss_box_reg", "loss_mask"):
        assert found["positive"][name].item() == found["sampled"][name].item()


@pytest.mark.parametrize("pseudo", [False, True])
@pytest.mark.parametrize(
    "targets",
    [
        pytest.param([target(), target()], id="no objects at all"),
        pytest.param([target(), target((8, 8, 16))], id="one image without"),
        pytest.param([target((30, 30, 1)), target((0, 0, 1), (SIZE - 1, SIZE - 1, 1))], id="one pixel"),
    ],
)
def test_degenerate_images_train_without_nan(model, images, targets, pseudo):
    losses = model(images, targets, pseudo=pseudo)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_no_positive_roi_trains_without_nan(model, images):
    model.roi_heads.add_gt_proposals = lambda proposals, boxes: proposals
    model.roi_heads.proposal_matcher.high_threshold = model.roi_heads.proposal_matcher.low_threshold = 1.1
    for pseudo in (False, True):
        losses = model(images, TARGETS, pseudo=pseudo)
        sum(losses.values()).backward()
        assert losses["loss_mask"].item() == 0
        assert all(torch.isfinite(value) for value in losses.values())


def by_place(found):
    """The order of detections by label and box, whatever their scores."""
    place = torch.tensor([1.0, 1e3, 1e6, 1e9], dtype=torch.float64)
    return torch.argsort(found["labels"] * 1e12 + (found["boxes"].double() * place).sum(dim=1))


def test_a_batch_says_what_single_images_say(model):
    generator = torch.Generator().manual_seed(2)
    sizes = [(SIZE, SIZE), (48, SIZE), (SIZE, SIZE), (48, SIZE), (40, 56)]
    images = [torch.rand(3, *size, generator=generator) for size in sizes]
    together = list(predict(model, images, batch_size=5))
    alone = [next(predict(model, [image])) for image in images]
    assert any(len(found["scores"]) for found in together)
    for left, right in zip(together, alone, strict=True):
        orders = [by_place(found) for found in (left, right)]  # two scores that differ by rounding may change places
        for name in ("labels", "boxes", "scores", "masks", "box_scores", "mask_scores", "instance_scores"):
            first, second = (found[name][order] for found, order in zip((left, right), orders, strict=True))
            assert torch.allclose(first, second, atol=1e-4), name
        assert left["max_class_score"] == pytest.approx(right["max_class_score"], abs=1e-5)


def test_detections_have_the_image_s_frame_and_ranges(model):
    image = (torch.rand(3, 48, 96, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)
    found = next(predict(model, [image]))
    count = len(found["scores"])
    assert count
    assert found["masks"].shape == (count, 1, 48, 96)
    assert found["boxes"][:, [0, 2]].max() <= 96
    assert found["boxes"][:, [1, 3]].max() <= 48
    for name in ("scores", "box_scores", "mask_scores", "instance_scores", "masks"):
        assert found[name].min() >= 0
        assert found[name].max() <= 1
    assert found["max_class_score"] >= found["scores"].max() - 1e-6


def test_entropies_are_those_of_the_softmax_a_score_was_taken_from(images):
    torch.manual_seed(0)
    for found in predict(tsp_mask_rcnn(2, "tiny", image_size=SIZE), images):
        score = found["scores"]
        assert len(score)
        # two classes: what the one does not have, the other has
        expected = torch.special.entr(score) + torch.special.entr(1 - score)
        torch.testing.assert_close(found["entropies"], expected, atol=1e-5, rtol=0)


def test_an_image_without_detections_keeps_its_highest_class_score(images):
    model = tsp_mask_rcnn(3, "tiny", image_size=SIZE, score_threshold=0.999)
    found = next(predict(model, images))
    assert len(found["boxes"]) == len(found["box_scores"]) == len(found["masks"]) == 0
    assert 0 < found["max_class_score"] <= 0.999


def test_detections_leave_headroom_and_too_few_are_refused():
    assert detections_needed(3) == 100
    assert detections_needed(375) == 450
    assert detections_needed(20, 24) == 24
    with pytest.raises(SettingsError, match="at least 24"):
        detections_needed(20, 23)


def test_parameters_and_operations_are_near_the_paper_s():
    """46.38 M with 10 classes and 46.82 M with 91; 1.18 M an IoU head; the paper: 47.07 M and 132.54 GFLOPs."""
    model = tsp_mask_rcnn(10, "resnet50", weights="none")
    assert complexity.parameters(model) == pytest.approx(46.38, abs=0.05)
    head = sum(p.numel() for p in model.roi_heads.box_iou_head.parameters())
    assert head == 2 * (256 * 256 * 9 + 256) + 257
    few, many = (complexity.gflops(model, 512, 512, proposals, 20) for proposals in (300, 1000))
    assert few < complexity.PAPER_GFLOPS < many


def test_a_network_starts_without_a_download(monkeypatch, caplog):
    def refuse(*arguments, **keywords):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with caplog.at_level(logging.WARNING):
        backbone, frozen = backbones.resnet_fpn("resnet18", "auto")
    assert "no route to host" in caplog.text
    assert "random weights" in caplog.text
    assert not frozen
    assert all(p.requires_grad for p in backbone.parameters())


def test_local_imagenet_weights_are_taken_and_freeze_the_norms(tmp_path):
    source, _ = backbones.resnet_fpn("resnet18", "none")
    state = dict(source.body.state_dict())
    torch.save(state, tmp_path / "resnet18.pth")
    backbone, frozen = backbones.resnet_fpn("resnet18", str(tmp_path / "resnet18.pth"))
    assert frozen
    assert torch.equal(backbone.body.layer3[0].conv1.weight, source.body.layer3[0].conv1.weight)
    assert not any(p.requires_grad for p in backbone.body.conv1.parameters())
    with pytest.raises(SettingsError, match="do not fit"):
        backbones.resnet_fpn("resnet34", str(tmp_path / "resnet18.pth"))
    with pytest.raises(SettingsError, match="no file"):
        backbones.resnet_fpn("resnet18", str(tmp_path / "absent.pth"))


def test_detections_that_nobody_wants_change_no_other() -> None:
    torch.manual_seed(0)
    model = tsp_mask_rcnn(3, "tiny", image_size=96).eval()
    with torch.inference_mode():
        proposed = model.propose(list(torch.rand(2, 3, 96, 96)))
        every = model.detect(proposed)
        threshold = float(every[0]["scores"].median())
        some = model.detect(proposed, threshold)
        none = model.detect(proposed, 1.0)
    for one, other in zip(every, some, strict=True):
        keep = one["scores"] > threshold
        for name in ("boxes", "labels", "scores", "box_scores", "mask_scores", "instance_scores", "box_masks"):
            torch.testing.assert_close(one[name][keep], other[name], msg=name)
        assert one["max_class_score"] == other["max_class_score"]
    assert 0 < len(some[0]["scores"]) < len(every[0]["scores"])
    assert none[0]["box_masks"].shape == (0, 28, 28)


def test_a_loss_head_learns_beside_the_network_and_changes_nothing_else(images):
    torch.manual_seed(0)
    plain = tsp_mask_rcnn(3, "tiny", image_size=SIZE)
    torch.manual_seed(0)
    model = tsp_mask_rcnn(3, "tiny", image_size=SIZE, learning_loss=True)
    found = []
    for one in (plain, model):
        torch.manual_seed(1)
        found.append(one(images, TARGETS))
    ranking = found[1].pop("loss_ranking")
    assert {name: value.item() for name, value in found[0].items()} == {k: v.item() for k, v in found[1].items()}
    assert "loss_ranking" not in model(images, TARGETS, pseudo=True)
    trunk = next(model.backbone.parameters())
    assert torch.autograd.grad(ranking, trunk, retain_graph=True)[0].abs().sum() > 0
    model.loss_head.detached = True
    ranking = model(images, TARGETS)["loss_ranking"]
    assert torch.autograd.grad(ranking, trunk, allow_unused=True)[0] is None
