"""Draws one B-scan that looks like retinal OCT, with exact masks of its lesions.

The anatomy is a stack of surfaces, one depth per column. From the bottom: Bruch's membrane, PED (the
dome that lifts the bright pigment epithelium, RPE), the RPE, SRF (the dark lens that lifts the retina), the
layered retina, which REA (a dark swelling inside it) thickens, and the vitreous. Every lesion pushes up what
lies above it, so its mask is known to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("REA", "PED", "SRF")
CLASS_SHARES = (0.52, 0.12, 0.36)  # PED is the rare class
LESION_COUNT_SHARES = (0.3, 0.32, 0.2, 0.12, 0.06)  # of 0, 1, ... 4 lesions drawn

# Least and largest width and height as shares of the image: REA is large, PED a narrow dome, SRF a flat lens.
WIDTHS_AND_HEIGHTS = {1: (0.28, 0.6, 0.07, 0.13), 2: (0.13, 0.3, 0.05, 0.11), 3: (0.16, 0.42, 0.035, 0.08)}

# Reflectivity through the retina, from the inner limiting membrane (0) to the outer segments (1).
LAYER_DEPTHS = (0, 0.03, 0.13, 0.17, 0.36, 0.40, 0.48, 0.52, 0.58, 0.62, 0.83, 0.87, 0.91, 0.94, 1)
LAYER_VALUES = (0.75, 0.85, 0.75, 0.5, 0.45, 0.25, 0.25, 0.45, 0.42, 0.2, 0.2, 0.62, 0.62, 0.35, 0.35)

SMALLEST_AREA = 24  # pixels at size 128; a lesion that would be smaller is not drawn at all


@dataclass(frozen=True)
class BScan:
    """A picture and what is in it.

    image: uint8 [size, size]; labels: N of 1..3, index into CLASSES plus one; masks: bool [N, size, size];
    difficulty: 0 (easy) to 1 (hard).
    """

    image: np.ndarray
    labels: list[int]
    masks: np.ndarray
    difficulty: float


@dataclass(frozen=True)
class Lesion:
    """A bump over some columns: ``height(x)`` in pixels for columns 0..size-1, zero outside of it."""

    label: int
    height: np.ndarray
    contrast: float  # 0 invisible, 1 black


def draw_b_scan(rng: np.random.Generator, size: int) -> BScan:
    """Draw a B-scan of ``size`` x ``size`` pixels; ``rng`` alone decides everything about it."""
    difficulty = float(rng.beta(1.1, 1.6))
    lesions = _draw_lesions(rng, size, difficulty)
    surfaces = _draw_surfaces(rng, size, lesions)
    rows = np.arange(size)[:, None] + 0.5
    found = [(lesion, _mask(lesion, surfaces, rows)) for lesion in lesions]
    reflectivity = _reflectivity(rng, surfaces, rows, found)
    masks = np.array([mask for _, mask in found], dtype=bool).reshape(-1, size, size)
    image = _acquire(rng, reflectivity, size, difficulty)
    return BScan(image, [lesion.label for lesion in lesions], masks, difficulty)


def _draw_lesions(rng: np.random.Generator, size: int, difficulty: float) -> list[Lesion]:
    """Up to four lesions; those of one class lie side by side, those of different classes may be stacked."""
    lesions: list[Lesion] = []
    columns = np.arange(size) + 0.5
    for _ in range(rng.choice(len(LESION_COUNT_SHARES), p=LESION_COUNT_SHARES)):
        label = 1 + int(rng.choice(len(CLASSES), p=CLASS_SHARES))
        shrink = rng.uniform(0.85, 1.15) * (1.1 - 0.5 * difficulty)
        low, high, flat, tall = WIDTHS_AND_HEIGHTS[label]
        half = rng.uniform(low, high) * size * shrink / 2
        height = rng.uniform(flat, tall) * size * shrink
        centre = rng.uniform(half * 0.6, size - half * 0.6)
        skew = rng.uniform(-0.25, 0.25)
        power = rng.uniform(0.6, 1.1)
        contrast = float(np.clip(rng.uniform(0.75, 1.0) * (1 - 0.6 * difficulty), 0.25, 0.95))
        along = (columns - centre) / half
        bump = height * np.clip(1 - along**2, 0, None) ** power * (1 + skew * along)
        clear = all(other.label != label or not (other.height * bump).any() for other in lesions)
        if clear and bump.sum() >= SMALLEST_AREA * (size / 128) ** 2:
            lesions.append(Lesion(label, bump, contrast))
    return lesions


def _draw_surfaces(rng: np.random.Generator, size: int, lesions: list[Lesion]) -> dict[str, np.ndarray]:
    """Depth in pixels of each surface by column."""
    across = np.linspace(-0.5, 0.5, size)
    push = {label: np.zeros(size) for label in (1, 2, 3)}
    for lesion in lesions:
        push[lesion.label] += lesion.height
    sag = rng.uniform(-0.05, 0.22)
    bruch = rng.uniform(0.62, 0.74) + rng.uniform(-0.16, 0.16) * across + sag * across**2
    thickness = rng.uniform(0.2, 0.27) + 0.02 * _wave(rng, size, 3)
    pit = rng.uniform(0.03, 0.09) * np.exp(-(((across - rng.uniform(-0.3, 0.3)) / rng.uniform(0.08, 0.14)) ** 2))
    drusen = 0.006 * np.clip(_wave(rng, size, 14), 0, None)  # small bumps that are nobody's lesion
    bruch = bruch * size
    rpe_bottom = bruch - push[2] - drusen * size
    rpe_top = rpe_bottom - 0.035 * size
    retina_bottom = rpe_top - push[3]
    # The retina gives way: its inner surface rises less steeply than what lifts it.
    lift = _blur((push[2] + push[3] + 0.8 * push[1])[None], 0.05 * size)[0]
    retina_top = bruch - 0.035 * size - (thickness - pit) * size - lift
    retina_top = np.minimum(retina_top, retina_bottom - 0.1 * size)
    return {
        "retina_top": retina_top,
        "retina_bottom": retina_bottom,
        "rpe_top": rpe_top,
        "rpe_bottom": rpe_bottom,
        "bruch": bruch,
    }


def _mask(lesion: Lesion, surfaces: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The lesion's pixels, bool [size, size]: those whose centre lies inside it."""
    if lesion.label == 1:
        retina = surfaces["retina_bottom"] - surfaces["retina_top"]
        top = surfaces["retina_bottom"] - 0.5 * retina - lesion.height * 0.65
        bottom = surfaces["retina_bottom"] - 0.5 * retina + lesion.height * 0.65
        limit = surfaces["retina_top"] + 0.16 * retina, surfaces["retina_bottom"] - 0.14 * retina
        inside = (rows >= np.maximum(top, limit[0])) & (rows < np.minimum(bottom, limit[1]))
    elif lesion.label == 2:
        inside = (rows >= surfaces["rpe_bottom"]) & (rows < surfaces["bruch"])
    else:
        inside = (rows >= surfaces["retina_bottom"]) & (rows < surfaces["rpe_top"])
    return inside & (lesion.height > 0.5)


def _reflectivity(
    rng: np.random.Generator,
    surfaces: dict[str, np.ndarray],
    rows: np.ndarray,
    found: list[tuple[Lesion, np.ndarray]],
) -> np.ndarray:
    """What an ideal scanner would see, float [size, size], about 0..1."""
    size = len(rows)
    top, bottom = surfaces["retina_top"], surfaces["retina_bottom"]
    depth = (rows - top) / (bottom - top)
    scene = np.interp(depth, LAYER_DEPTHS, LAYER_VALUES) * (1 + 0.15 * _cloud(rng, size, size / 10))
    below = (rows - surfaces["bruch"]) / size
    choroid = 0.45 * np.exp(-below / rng.uniform(0.06, 0.13)) * (1 + 0.35 * _cloud(rng, size, size / 24))
    scene = np.where(rows >= bottom, 0.4, scene)
    scene = np.where((rows >= surfaces["rpe_top"]) & (rows < surfaces["rpe_bottom"]), 1.0, scene)
    scene = np.where(rows >= surfaces["rpe_bottom"], 0.3, scene)
    scene = np.where(rows >= surfaces["bruch"], np.clip(choroid, 0.02, 1), scene)
    scene = np.where(rows < top, 0.03, scene)
    for lesion, mask in found:
        inside = {1: 0.16, 2: 0.24, 3: 0.05}[lesion.label]
        texture = 1 + (0.5 if lesion.label == 1 else 0.2) * _cloud(rng, size, size / 32)
        surrounding = scene if lesion.label == 1 else 0.42
        scene = np.where(mask, lesion.contrast * inside * texture + (1 - lesion.contrast) * surrounding, scene)
    return scene * _shadows(rng, surfaces, rows)


def _shadows(rng: np.random.Generator, surfaces: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Vessels in the inner retina darken the columns below them; they are the usual false alarms."""
    size = len(rows)
    light = np.ones((size, size))
    columns = np.arange(size) + 0.5
    for _ in range(rng.integers(0, 5)):
        width = rng.uniform(0.008, 0.025) * size
        dip = rng.uniform(0.2, 0.65) * np.exp(-(((columns - rng.uniform(0, size)) / width) ** 2))
        light *= np.where(rows > surfaces["retina_top"] + 0.05 * size, 1 - dip, 1)
    return light


def _acquire(rng: np.random.Generator, scene: np.ndarray, size: int, difficulty: float) -> np.ndarray:
    """What a real scanner makes of it, uint8: blur, speckle, uneven light, noise, grey-level compression."""

    def between(easy: float, hard: float, spread: float) -> float:
        return (easy + (hard - easy) * difficulty) * rng.uniform(1 - spread, 1 + spread)

    scale = size / 128
    blurred = _blur(scene, between(0.35, 1.1, 0.2) * scale)
    looks = between(14, 3, 0.25)  # a speckle pattern averaged over so many frames
    speckle = rng.standard_gamma(looks, (size, size)) / looks
    speckle = 1 + (_blur(speckle, 0.55 * scale) - 1) * 1.6
    light = between(1, 0.6, 0.15) * (1 + 0.25 * _wave(rng, size, 2))
    signal = np.clip(blurred * speckle * light, 0, None)
    floor = np.abs(_blur(rng.standard_normal((size, size)), 0.4 * scale)) * between(0.02, 0.07, 0.3)
    grey = (signal + floor) ** rng.uniform(0.7, 0.9)
    return np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)


def _wave(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """A smooth random curve by column, about -1..1, with some ``count`` bends."""
    knots = rng.uniform(-1, 1, count + 2)
    return _blur(np.interp(np.linspace(0, count + 1, size), np.arange(count + 2), knots)[None], size / count / 6)[0]


def _cloud(rng: np.random.Generator, size: int, grain: float) -> np.ndarray:
    """Smooth random texture, [size, size], mean 0, standard deviation 1, grains of so many pixels."""
    coarse = max(4, round(size / max(grain, 1)))
    noise = rng.standard_normal((coarse, coarse))
    smooth = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return smooth / smooth.std()


def _blur(array: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(array, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
