"""How a network runs on this machine: the one place that decides precision, memory format, RoIAlign and compilation.

None of it changes what is computed beyond rounding, so it belongs to the machine and not to the model: a version that a
GPU trained answers on a CPU. Every choice is a setting with "auto" as its default; what auto means was measured, lever
by lever on trained networks, with `python -m scripts.benchmark agreement` and `learning`.

Neighbours are decided elsewhere: threads and what becomes of freed memory belong to a process (TORCH_THREADS and
TSP_KEEP_MEMORY in backend/settings.py), and proposals, which do change what is computed, to the model
(network.proposals_needed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from tsp_model.frozen import fold_norms, onednn_linears
from tsp_model.roi_align import GatherRoIAlign
from tsp_model.settings import Settings

if TYPE_CHECKING:
    from tsp_model.network import TSPMaskRCNN


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Execution:
    """Attributes:

    device: where the network runs.
    precision: of the convolutions and linear layers that find objects: backbone, RPN and box head (autocast). Weights
        in training, losses, boxes and scores are float32 always.
    mask_precision: of those that come after: mask head and the two score heads.
    channels_last: pixels before channels in memory.
    gather: RoIAlign as a gather (tsp_model.roi_align) instead of torchvision's kernel.
    compiled: backbone and RPN head go through torch.compile.
    folded: batch norms are folded into the convolutions before them; of a network that only answers.
    onednn_linear: linear layers in float32 run by oneDNN instead of PyTorch's BLAS; of a network that only answers.
    """

    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    mask_precision: torch.dtype = torch.float32
    channels_last: bool = False
    gather: bool = False
    compiled: bool = False
    folded: bool = False
    onednn_linear: bool = False

    @classmethod
    def choose(
        cls, settings: Settings | None = None, device: torch.device | None = None, learning: bool = False
    ) -> Execution:
        """What `settings` ask for, and where they say "auto" the quickest on `device` that says the same.

        Args:
            device: None: default_device().
            learning: the network trains, and what rounding does to one step the next one mends.
        """
        settings, device = settings or Settings(), device or default_device()
        asked = settings.precision
        if asked == "auto":
            # Without the hardware bfloat16 is right but slower. With it, a detection near a threshold may come or go,
            # which moves S by a whole detection: on weakly trained networks that changed the order of a pool too much.
            asked = "float32" if not _quick_bfloat16(device) else "bfloat16" if learning else "mixed"
        return cls(
            device=device,
            precision=torch.bfloat16 if asked == "bfloat16" else torch.float32,
            mask_precision=torch.float32 if asked == "float32" else torch.bfloat16,
            channels_last=settings.memory_format != "contiguous",
            gather=settings.roi_align != "torchvision" and device.type == "cpu",
            compiled=settings.compile,
            folded=settings.fold_norms,
            onednn_linear=settings.linear != "blas" and onednn_multiplies(device),
        )

    def prepare(self, model: TSPMaskRCNN) -> TSPMaskRCNN:
        """Move `model` to the device and let it run so from now on; in place."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model.to(device=self.device, memory_format=layout)
        for module in model.modules():
            if isinstance(module, GatherRoIAlign):
                module.gather = self.gather
        model.roi_heads.mask_precision = self.mask_precision
        if self.compiled:
            model.backbone.compile()
            model.rpn.head.compile()
        model.execution = self
        return model

    def freeze(self, model: TSPMaskRCNN) -> TSPMaskRCNN:
        """`prepare` for a network that only answers, no longer learns; in place.

        Weights are rounded to the precision once, not at every pass, which gives the same detections bit for bit;
        what else is spared (tsp_model/frozen.py) changes rounding only.
        """
        self.prepare(model).eval().requires_grad_(False)
        if self.folded:
            fold_norms(model.backbone)
        after = {id(module) for part in model.roi_heads.mask_branches() for module in part.modules()}
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.to(self.mask_precision if id(module) in after else self.precision)
        if self.onednn_linear:
            onednn_linears(model)
        return model

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return autocast(self.device, self.precision)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Convolutions and linear layers in `precision`; float32 means no autocast."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def default_device() -> torch.device:
    """The first GPU where there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """What `default_device` is called by those who made it; "cpu" without a GPU."""
    return torch.cuda.get_device_name() if default_device().type == "cuda" else "cpu"


def onednn_multiplies(device: torch.device) -> bool:
    """Whether linear layers can run by oneDNN there."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available()


def _quick_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    has_instructions = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return bool(has_instructions) and _onednn_takes_bfloat16()


def _onednn_takes_bfloat16() -> bool:
    """It may have been told to leave the instructions alone (ONEDNN_MAX_CPU_ISA)."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()
