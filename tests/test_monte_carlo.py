"""Monte Carlo dropout: what the passes share, and that they differ only by what is dropped."""

import torch

from tsp_model.monte_carlo import passes
from tsp_model.network import TSPMaskRCNN, tsp_mask_rcnn


def network(dropout: float) -> TSPMaskRCNN:
    torch.manual_seed(0)
    return tsp_mask_rcnn(3, "tiny", image_size=96, dropout=dropout).eval()


def images() -> list[torch.Tensor]:
    return list(torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)))


def test_without_dropout_every_pass_is_the_plain_one() -> None:
    model = network(0.0)
    with torch.inference_mode():
        plain = model.detect(model.propose(images()))
    for one in passes(model, images(), 2):
        for found, expected in zip(one, plain, strict=True):
            assert torch.equal(found["scores"], expected["scores"])
            assert torch.equal(found["box_masks"], expected["box_masks"])


def test_passes_differ_and_a_seed_repeats_them() -> None:
    model = network(0.5)
    torch.manual_seed(7)
    first, second = passes(model, images(), 2)
    assert first[0]["max_class_score"] != second[0]["max_class_score"]
    torch.manual_seed(7)
    again = passes(model, images(), 2)
    assert torch.equal(again[1][0]["scores"], second[0]["scores"])
    assert not any(module.training for module in model.modules())


def test_sharing_changes_nothing() -> None:
    """Dropout sits in the heads alone, so the same random numbers give the same passes."""
    model = network(0.5)
    results = []
    for shared in (True, False):
        torch.manual_seed(7)
        results.append(passes(model, images(), 2, shared))
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(one["scores"], other["scores"])
        assert torch.equal(one["box_masks"], other["box_masks"])


def test_the_backbone_runs_once_if_shared() -> None:
    model = network(0.5)
    calls = []
    model.backbone.register_forward_hook(lambda *args: calls.append(1))
    passes(model, images(), 3)
    assert len(calls) == 1
    passes(model, images(), 3, shared=False)
    assert len(calls) == 4


def test_dropout_trains_too_and_adds_no_weight() -> None:
    plain, dropping = network(0.0), network(0.5)
    assert plain.state_dict().keys() == dropping.state_dict().keys()
    features = torch.rand(4, 64, 7, 7)
    head = dropping.roi_heads.box_head.train()
    assert (head(features) == 0).float().mean() > 0.6  # half dropped, and ReLU's share of the rest
    assert torch.equal(head.eval()(features), plain.roi_heads.box_head(features))
