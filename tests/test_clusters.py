"""Clusters: groups of like images. That Label Studio's next task goes round them is tested in test_order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.clusters import CENTRES, keep_clusters
from tests.builders import prediction
from tsp_model.acquisition.groups import centres_of


def test_the_centres_of_three_heaps():
    rng = np.random.default_rng(0)
    heaps = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    points = np.concatenate([heap + rng.uniform(-1, 1, (20, 2)) for heap in heaps]).astype(np.float32)
    found = centres_of(points, 3, seed=4)
    assert found.shape == (3, 2) and found.dtype == np.float32
    means = np.array([points[20 * i : 20 * i + 20].mean(axis=0) for i in range(3)])
    order = [int(np.argmin(np.square(found - mean).sum(axis=1))) for mean in means]
    assert sorted(order) == [0, 1, 2]
    assert found[order] == pytest.approx(means, abs=1e-5)
    assert (centres_of(points, 3, seed=4) == found).all()


def test_there_are_no_more_clusters_than_different_images(tmp_path: Path):
    assert sorted(centres_of(np.array([[1], [1], [2]], np.float32), 9, seed=0).tolist()) == [[1], [2]]
    bare = prediction("1", [])
    keep_clusters(tmp_path, [bare], 3, seed=0)
    assert not (tmp_path / CENTRES).exists(), "nothing was noted of it"
    keep_clusters(tmp_path, [bare, replace(bare, key="2", signals={"features": [1.0, 2.0]})], 3, seed=0)
    assert np.load(tmp_path / CENTRES).tolist() == [[1, 2]]
