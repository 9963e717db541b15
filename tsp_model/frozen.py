"""What a network can be spared that only answers and no longer learns.

Batch norms, whose statistics are settled, are folded into the convolutions before them: one pass over the features less
for each. And linear layers in float32 run by oneDNN, as convolutions do: PyTorch gives them to its BLAS, whose products
of matrices use half of what an AMD processor can do. Both change rounding only.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def fold_norms(trunk: nn.Module) -> None:
    """Fold each norm of `trunk` (in evaluation mode) that follows a convolution into it; in place.

    Which follows which is read from the graph of `trunk.forward`.
    """
    modules = dict(trunk.named_modules())
    for node in _Tracer().trace(trunk).nodes:
        norm = modules[node.target] if node.op == "call_module" else None
        before = node.args[0] if isinstance(norm, NORMS) else None
        if before is None or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = modules[before.target]
        if isinstance(convolution, nn.Conv2d):
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            trunk.set_submodule(node.target, nn.Identity())


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, NORMS) or super().is_leaf_module(module, name)


class OneDNNLinear(nn.Linear):
    """A linear layer in float32 on a CPU, without a gradient.

    forward: [N, in_features] -> [N, out_features].
    """

    def forward(self, x: Tensor) -> Tensor:
        # The operator that torch.compile puts in a linear layer's place.
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def onednn_linears(model: nn.Module) -> None:
    """Give the linear layers in float32 to oneDNN; in place."""
    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and layer.weight.dtype == torch.float32:
            quick = OneDNNLinear(layer.in_features, layer.out_features, device="meta")
            quick.weight, quick.bias = layer.weight, layer.bias
            model.set_submodule(name, quick)
