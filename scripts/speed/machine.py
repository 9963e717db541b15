"""The machine that a measurement was taken on, in words and as JSON."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
import torchvision

ONEDNN_LIMIT = "ONEDNN_MAX_CPU_ISA"
WITHOUT_AMX = "AVX512_CORE_BF16"


def describe(threads: int) -> dict[str, Any]:
    """JSON-able: CPU, cores, threads used, what it can do with bfloat16, versions, GPU, load before the start."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "cpu": capabilities.get("cpu_name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "amx": has_amx(),
        "avx512_bf16": bool(capabilities.get("avx512_bf16")),
        "onednn_limit": os.environ.get(ONEDNN_LIMIT),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": round(os.getloadavg()[0], 2),
    }


def has_amx() -> bool:
    """Whether the CPU has AMX for bfloat16 and oneDNN was not told to leave it alone."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16")) and ONEDNN_LIMIT not in os.environ


def short_name() -> str:
    """What a result was made on, without what changes from run to run."""
    described = describe(torch.get_num_threads())
    gpu = described["gpu"] or "no GPU"
    return f"{described['cpu']}, {described['cores']} cores, {gpu}, torch {described['torch']}"


def in_words(machine: dict[str, Any]) -> str:
    """One line for people."""
    bfloat16 = "AMX" if machine["amx"] else "AVX512-BF16 without AMX" if machine["avx512_bf16"] else "no bfloat16"
    limit = f", {ONEDNN_LIMIT}={machine['onednn_limit']}" if machine["onednn_limit"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({bfloat16}{limit}), {machine['threads']} threads, "
        f"{machine['gpu'] or 'no GPU'}, torch {machine['torch']}, torchvision {machine['torchvision']}, "
        f"Python {machine['python']}, load {machine['load']} before the start"
    )
