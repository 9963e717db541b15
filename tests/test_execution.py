"""What runs how: the choices, each switch, and that none of them changes what a network says."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tsp_model import execution
from tsp_model.execution import Execution
from tsp_model.frozen import OneDNNLinear
from tsp_model.inference import predict
from tsp_model.network import TSPMaskRCNN, proposals_needed, tsp_mask_rcnn
from tsp_model.roi_align import GatherRoIAlign
from tsp_model.settings import Settings

CPU = torch.device("cpu")
BFLOAT16 = Execution(CPU, torch.bfloat16, torch.bfloat16, channels_last=True, gather=True)
MIXED = dataclasses.replace(BFLOAT16, precision=torch.float32)


def network() -> TSPMaskRCNN:
    torch.manual_seed(0)
    return tsp_mask_rcnn(3, "tiny", image_size=96)


def images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 96, 96), generator=generator, dtype=torch.uint8) for _ in range(3)]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(execution, "_onednn_takes_bfloat16", lambda: True)
    learning, answering = (Execution.choose(Settings(), CPU, learning) for learning in (True, False))
    assert (learning.precision, learning.mask_precision) == (expected, expected)
    assert (answering.precision, answering.mask_precision) == (torch.float32, expected)


def test_each_choice_can_be_set() -> None:
    asked = Settings(
        precision="float32",
        memory_format="contiguous",
        roi_align="torchvision",
        linear="blas",
        fold_norms=False,
    )
    assert Execution.choose(asked, CPU) == Execution(CPU)
    asked = Settings(precision="bfloat16", compile=True)
    spared = {"folded": True, "onednn_linear": True}
    assert Execution.choose(asked, CPU) == dataclasses.replace(BFLOAT16, compiled=True, **spared)
    mixed = Execution.choose(Settings(precision="mixed"), CPU)
    assert (mixed.precision, mixed.mask_precision) == (torch.float32, torch.bfloat16)
    auto = Execution.choose(Settings(), CPU)
    assert (auto.channels_last, auto.gather, auto.compiled) == (True, True, False)
    on_gpu = Execution.choose(Settings(), torch.device("cuda"))
    assert not (on_gpu.gather or on_gpu.onednn_linear)


def test_prepare_applies_what_was_chosen() -> None:
    model = BFLOAT16.prepare(network())
    seen = []
    model.backbone.register_forward_hook(lambda module, args, output: seen.append(output["0"]))
    list(predict(model, images()[:1]))
    assert seen[0].dtype == torch.bfloat16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    pools = [module for module in model.modules() if isinstance(module, GatherRoIAlign)]
    assert len(pools) == 2
    assert all(pool.gather for pool in pools)
    Execution().prepare(model)
    list(predict(model, images()[:1]))
    assert seen[1].dtype == torch.float32
    assert seen[1].is_contiguous()
    assert not any(pool.gather for pool in pools)


def test_layout_and_roi_align_change_rounding_only() -> None:
    plain = list(predict(Execution().prepare(network()), images()))
    quick = list(predict(Execution(channels_last=True, gather=True).prepare(network()), images()))
    for one, other in zip(plain, quick, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        for name in ("boxes", "scores", "box_scores", "mask_scores", "masks"):
            torch.testing.assert_close(one[name], other[name], atol=1e-3, rtol=1e-3)


def test_bfloat16_keeps_boxes_off_its_grid() -> None:
    """Decoded in bfloat16, coordinates above 64 pixels would be multiples of a half."""
    found = next(iter(predict(BFLOAT16.prepare(network()), images()[:1])))
    boxes = found["boxes"]
    far = boxes[(boxes > 64) & (boxes < 96)]
    assert len(far) > 5
    assert boxes.dtype == found["scores"].dtype == found["mask_scores"].dtype == torch.float32
    assert ((far * 2) % 1 != 0).any()
    # A score that was rounded after its sigmoid would be a multiple of 2^-9 between a half and a quarter.
    for name in ("scores", "box_scores", "mask_scores"):
        middle = found[name][(found[name] > 0.25) & (found[name] < 0.5)]
        assert ((middle * 2**9) % 1 != 0).any(), name


def test_mixed_precision_leaves_what_is_found_as_it_is() -> None:
    plain = dataclasses.replace(MIXED, mask_precision=torch.float32)
    for one, other in zip(
        predict(plain.prepare(network()), images()), predict(MIXED.prepare(network()), images()), strict=True
    ):
        for name in ("boxes", "labels", "scores", "max_class_score"):
            assert torch.all(torch.as_tensor(one[name] == other[name])), name
        assert not torch.equal(one["mask_scores"], other["mask_scores"])
        torch.testing.assert_close(one["mask_scores"], other["mask_scores"], atol=0.01, rtol=0)


@pytest.mark.parametrize("execution", [BFLOAT16, MIXED, Execution()], ids=["bfloat16", "mixed", "float32"])
def test_rounding_weights_once_changes_nothing(execution: Execution) -> None:
    """A millisecond saved is no reason to score a pool otherwise than the network that was trained."""
    learning, frozen = execution.prepare(network()), execution.freeze(network())
    assert frozen.roi_heads.box_head.fc6.weight.dtype == execution.precision
    assert frozen.roi_heads.mask_head[0][0].weight.dtype == execution.mask_precision
    assert frozen.backbone.stem[0][1].weight.dtype == torch.float32  # norms keep their precision
    for one, other in zip(predict(learning, images()), predict(frozen, images()), strict=True):
        for name in ("boxes", "scores", "box_scores", "mask_scores", "masks"):
            assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("execution", [MIXED, Execution(channels_last=True, gather=True)], ids=["mixed", "float32"])
def test_what_a_frozen_network_is_spared_changes_rounding_only(execution: Execution) -> None:
    spared = dataclasses.replace(execution, folded=True, onednn_linear=True)
    learning, frozen = execution.prepare(network()), spared.freeze(network())
    assert isinstance(frozen.roi_heads.box_head.fc6, OneDNNLinear)
    for one, other in zip(predict(learning, images()), predict(frozen, images()), strict=True):
        assert torch.equal(one["labels"], other["labels"])
        for name in ("boxes", "scores", "box_scores", "mask_scores", "masks"):
            tolerance = 1e-3 if execution.mask_precision == torch.float32 or name in ("boxes", "scores") else 0.02
            torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=tolerance)


def test_a_frozen_network_has_its_batch_norms_folded() -> None:
    for folded in (False, True):
        model = Execution(folded=folded).freeze(tsp_mask_rcnn(3, "resnet18", weights="none", image_size=96))
        assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) == (not folded)


@pytest.mark.slow
def test_a_compiled_network_says_the_same() -> None:
    answers = []
    for compiled in (False, True):
        execution = dataclasses.replace(Execution.choose(Settings(precision="float32"), CPU), compiled=compiled)
        answers.append(list(predict(execution.freeze(network()), images())))
    for one, other in zip(*answers, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        for name in ("boxes", "scores", "box_scores", "mask_scores"):
            torch.testing.assert_close(one[name], other[name], atol=1e-3, rtol=1e-3)


_OTHER_MACHINE = """
import json, sys, torch
sys.path.insert(0, {root!r})
from tests.test_execution import images, network
from tsp_model.execution import Execution
from tsp_model.inference import predict
execution = Execution.choose()
found = list(predict(execution.freeze(network()), images()))
names = ("boxes", "scores", "box_scores", "mask_scores", "masks")
print(json.dumps([str(execution.precision)] + [{{name: one[name].tolist() for name in names}} for one in found]))
"""


def test_a_processor_without_avx512_gives_the_same_results_in_float32() -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    program = _OTHER_MACHINE.format(root=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    precision, *answers = json.loads(done.stdout)
    assert precision == "torch.float32"
    for one, other in zip(answers, predict(Execution().prepare(network()), images()), strict=True):
        for name, values in one.items():
            torch.testing.assert_close(torch.tensor(values), other[name], atol=1e-3, rtol=1e-3)


def test_proposals_leave_room_for_the_detections() -> None:
    assert (proposals_needed("tiny", 100), proposals_needed("resnet50", 100)) == (300, 1000)
    assert proposals_needed("tiny", 450) == 900
    assert proposals_needed("resnet50", 450, 300) == 300
    model = tsp_mask_rcnn(3, "tiny", image_size=96, detections_per_image=450)
    assert model.rpn.post_nms_top_n() == 300  # training keeps its own
    assert model.eval().rpn.post_nms_top_n() == 900
    assert tsp_mask_rcnn(weights="none", **dataclasses.asdict(model.architecture)).eval().rpn.post_nms_top_n() == 900
