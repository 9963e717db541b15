"""Images and masks in memory, and augmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as codec
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tsp_model.data import DataError, masks
from tsp_model.data.augmentation import augment, flip, rot90
from tsp_model.data.image_set import ImageSet, Instance, Item, read_image

# masks


def random_masks(seed=0, count=6, height=40, width=30):
    found = np.random.default_rng(seed).random((count, height, width)) > 0.6
    found[0] = False
    found[1] = False
    found[1, 7, 9] = True
    return found


def test_masks_come_back_as_they_were():
    before = random_masks()
    after = masks.decode(masks.encode(before))
    assert after.dtype == np.uint8
    assert after.flags["C_CONTIGUOUS"]
    assert (after == before).all()
    assert masks.area(masks.encode(before)).tolist() == before.sum((1, 2)).tolist()
    assert masks.encode(torch.from_numpy(before) * 255) == masks.encode(before)


def edge_cases():
    """Masks whose runs begin or end where columns or the image do."""
    corner = np.zeros((5, 7), dtype=np.uint8)
    corner[4, 6] = 1
    columns = np.zeros((5, 7), dtype=np.uint8)
    columns[:, 2:4] = 1
    chequered = np.indices((6, 9)).sum(0).astype(np.uint8) % 2
    return [np.ones((1, 1)), np.zeros((4, 3)), np.ones((4, 3)), corner, columns, chequered, 1 - chequered, chequered.T]


@pytest.mark.parametrize("mask", [*edge_cases(), *random_masks()], ids=lambda mask: f"{mask.sum():.0f} of {mask.shape}")
def test_codes_are_the_codecs_own(mask):
    expected = codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert masks.encode(mask[None]) == [{"size": list(mask.shape), "counts": expected["counts"].decode()}]
    assert (masks.decode(masks.encode(mask[None]))[0] == mask).all()


def test_runs_without_a_pixel_are_read():
    assert not masks.decode([masks.from_counts([12, 0], 3, 4)]).any()
    assert masks.decode([masks.from_counts([0, 2, 0, 3, 7], 3, 4)])[0].T.ravel().tolist() == [1] * 5 + [0] * 7
    assert masks.row_ends(masks.from_counts([12, 0], 3, 4)).tolist() == []
    # Columns of three pixels: the first whole, the second but for its last.
    assert masks.row_ends(masks.from_counts([0, 2, 0, 3, 7], 3, 4)).tolist() == [0, 2, 4, 6, 8, 9]


@pytest.mark.parametrize("mask", [*edge_cases(), *random_masks()], ids=lambda mask: f"{mask.sum():.0f} of {mask.shape}")
def test_runs_of_rows_are_those_of_the_pixels(mask):
    [rle] = masks.encode(mask[None])
    states = np.concatenate([[0], mask.ravel(), [0]])
    ends = masks.row_ends(rle)
    assert ends.dtype == np.int64
    assert ends.tolist() == np.flatnonzero(states[1:] != states[:-1]).tolist()
    assert masks.from_row_ends(ends, *mask.shape) == rle


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_runs_of_rows_give_the_mask_back(height, width, density, grain, seed):
    coarse = np.random.default_rng(seed).random((height, width)) < density
    mask = coarse.repeat(grain, axis=seed % 2)
    [rle] = masks.encode(mask[None])
    ends = masks.row_ends(rle)
    lengths = np.diff(ends, prepend=0, append=mask.size)
    assert (np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(mask.shape) == mask).all()
    assert masks.from_row_ends(ends, *mask.shape) == rle


def test_boxes_are_tight_pixel_edges():
    boxes = masks.boxes(masks.encode(random_masks()))
    assert boxes[0].tolist() == [0, 0, 0, 0]
    assert boxes[1].tolist() == [9, 7, 10, 8]
    assert boxes.dtype == np.float32
    for mask, box in zip(random_masks()[2:], boxes[2:], strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_no_masks_have_a_shape_too():
    assert masks.decode([], size=(3, 4)).shape == (0, 3, 4)
    assert masks.encode(np.zeros((0, 3, 4))) == []
    assert masks.boxes([]).shape == (0, 4)
    assert masks.area([]).shape == (0,)
    assert masks.iou([], masks.encode(np.ones((2, 3, 4)))).shape == (0, 2)


def test_polygons_are_united_and_cut_at_the_border():
    square = [1, 1, 4, 1, 4, 3, 1, 3]
    beyond = [5, -9, 70, -9, 70, 2, 5, 2]
    decoded = masks.decode([masks.from_polygons([square, beyond], 5, 7)])[0]
    assert decoded.tolist() == [
        [0, 0, 0, 0, 0, 1, 1],
        [0, 1, 1, 1, 0, 1, 1],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    # Two points are a line, not the box that the codec would make of four numbers.
    assert masks.area([masks.from_polygons([[1, 1, 3, 3]], 5, 7), masks.from_polygons([], 5, 7)]).tolist() == [0, 0]


@pytest.mark.parametrize("polygon", [[1, 1, 4, 1, 4], [1, 1, 4, 1, 4, float("nan")], [[1, 1], [4, 1], [4, 4]], "x"])
def test_broken_polygons_are_refused(polygon):
    with pytest.raises(DataError, match="polygon"):
        masks.from_polygons([polygon], 5, 7)


def test_iou_of_every_pair():
    a = np.zeros((2, 4, 4))
    a[0, :2] = 1
    a[1, :, :2] = 1
    assert masks.iou(masks.encode(a), masks.encode(a)) == pytest.approx(np.array([[1, 1 / 3], [1 / 3, 1]]))


@pytest.mark.parametrize("counts", ["zz9!!", "0", ""])
def test_broken_counts_are_refused(counts):
    for read in (masks.decode_window, masks.row_ends):
        with pytest.raises(DataError, match="RLE is broken"):
            read({"size": [5, 7], "counts": counts})


# images


def save(path: Path, array, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def test_grey_is_repeated_and_transparency_dropped(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    image = read_image(save(tmp_path / "grey.png", grey))
    assert (image.shape, image.dtype) == ((3, 3, 4), torch.uint8)
    assert all(channel.tolist() == grey.tolist() for channel in image)
    rgba = np.dstack([grey, grey + 1, grey + 2, np.zeros_like(grey)])
    assert read_image(save(tmp_path / "rgba.png", rgba))[1].tolist() == (grey + 1).tolist()


@pytest.mark.parametrize(("largest", "expected"), [(255, 255), (1023, 255), (4095, 255), (2048, 128), (65535, 255)])
def test_deep_images_keep_their_contrast(tmp_path, largest, expected):
    image = read_image(save(tmp_path / "deep.png", np.array([[0, largest]], dtype=np.uint16)))
    assert image[:, 0].tolist() == [[0, expected]] * 3


def test_float_images_from_0_to_1_keep_their_range(tmp_path):
    image = read_image(save(tmp_path / "float.tiff", np.array([[0, 0.5]], dtype=np.float32)))
    assert image[0].tolist() == [[0, 128]]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    array = np.zeros((16, 32), dtype=np.uint8)
    array[:, :16] = 255
    image = read_image(save(tmp_path / "turned.jpg", array, exif=exif, quality=95))
    assert image.shape == (3, 32, 16)
    assert image[0, :8].float().mean() > 240
    assert image[0, -8:].float().mean() < 15


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_unreadable_images_are_named(tmp_path, content):
    path = tmp_path / "bad.png"
    if content is None:
        save(path, np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
        content = path.read_bytes()[:800]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read the image .*bad\.png: .+; replace or remove it") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def small_set(tmp_path) -> ImageSet:
    rles = masks.encode(random_masks()[1:3])
    items = [
        Item(
            "a",
            save(tmp_path / "a.png", np.zeros((40, 30), np.uint8)),
            (Instance(2, rles[0]), Instance(1, rles[1])),
        ),
        Item("b", save(tmp_path / "b.png", np.zeros((20, 10, 3), np.uint8))),
    ]
    return ImageSet(items, ["rod", "cone"])


def test_items_become_images_and_targets(tmp_path):
    image, target = small_set(tmp_path)[0]
    assert (image.shape, image.dtype) == ((3, 40, 30), torch.uint8)
    assert target["boxes"][0].tolist() == [9, 7, 10, 8]
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [2, 1]
    assert (target["masks"].numpy() == random_masks()[1:3]).all()
    assert target["key"] == "a"


def test_an_image_without_objects_has_empty_targets(tmp_path):
    _, target = small_set(tmp_path)[1]
    assert target["boxes"].shape == (0, 4)
    assert (target["labels"].shape, target["labels"].dtype) == ((0,), torch.int64)
    assert (target["masks"].shape, target["masks"].dtype) == ((0, 20, 10), torch.uint8)


def test_subset_keeps_the_given_order_and_refuses_strangers(tmp_path):
    chosen = small_set(tmp_path).subset(["b", "a"])
    assert chosen.keys == ("b", "a")
    assert chosen[1][1]["labels"].tolist() == [2, 1]
    with pytest.raises(DataError, match="1 keys are not in this set of 2 images: c"):
        chosen.subset(["a", "c"])


def test_small_objects_are_left_out_by_their_share_of_the_longest_side(tmp_path):
    whole = small_set(tmp_path)  # in 40 x 30: one of a pixel, one as large as the image; and an image of nothing
    assert whole.objects == 2
    assert whole.without_small(0) is whole
    assert whole.without_small(1 / 40) is whole
    left = whole.without_small(1.01 / 40)
    assert (left.keys, left.classes, left.objects) == (whole.keys, whole.classes, 1)
    assert left[0][1]["labels"].tolist() == [1]
    assert whole.without_small(0.9).objects == 0


def test_a_mask_of_another_size_than_its_image_is_named(tmp_path):
    item = Item(
        "wrong",
        save(tmp_path / "a.png", np.zeros((9, 9), np.uint8)),
        (Instance(1, masks.encode(random_masks())[1]),),
    )
    with pytest.raises(DataError, match=r"wrong: a mask of \[40, 30\] pixels for \[9, 9\]"):
        ImageSet([item], ["rod"])[0]


def test_sets_refuse_repeated_keys_and_labels_without_a_class(tmp_path):
    item = small_set(tmp_path).items[0]
    with pytest.raises(DataError, match="image keys repeat: a"):
        ImageSet([item, item], ["rod", "cone"])
    with pytest.raises(DataError, match="class names repeat: rod"):
        ImageSet([item], ["rod", "rod"])
    with pytest.raises(DataError, match="a: label 2 has no class"):
        ImageSet([item], ["rod"])


# augmentation


def wide_sample():
    """A wide image of unique pixels, objects that touch its edges, and their tight boxes."""
    found = random_masks(seed=1, count=5, height=12, width=20)
    found[0, 0, 0] = True
    found[2] = False
    found[2, 3:5, 18:] = True
    rles = masks.encode(found)
    image = torch.arange(3 * 12 * 20).reshape(3, 12, 20)
    target = {"boxes": torch.from_numpy(masks.boxes(rles)), "masks": torch.from_numpy(found.astype(np.uint8))}
    return image, target | {"labels": torch.arange(1, 6), "key": "a"}


def assert_consistent(target):
    assert torch.equal(target["boxes"], torch.from_numpy(masks.boxes(masks.encode(target["masks"]))))


@pytest.mark.parametrize("turns", range(-1, 5))
def test_boxes_turn_with_their_masks(turns):
    image, target = wide_sample()
    turned, moved = rot90(image, target, turns)
    assert_consistent(moved)
    assert turned.shape[-2:] == moved["masks"].shape[-2:] == ((20, 12) if turns % 2 else (12, 20))
    back, original = rot90(turned, moved, -turns)
    assert torch.equal(back, image)
    assert torch.equal(original["boxes"], target["boxes"])


def test_flip_mirrors_pixels_boxes_and_masks():
    image, target = wide_sample()
    mirrored, moved = flip(image, target)
    assert mirrored[0, 0].tolist() == image[0, 0].tolist()[::-1]
    assert moved["boxes"][2].tolist() == [0, 3, 2, 5]
    assert_consistent(moved)
    assert_consistent(target)
    assert torch.equal(moved["labels"], target["labels"])


@pytest.mark.parametrize(("kind", "outcomes"), [("none", 1), ("flip", 2), ("flip_rot90", 8)])
def test_every_augmentation_is_drawn_and_repeats_with_its_seed(kind, outcomes):
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        results = [augment(*wide_sample(), kind, generator) for _ in range(100)]
        for _, target in results:
            assert_consistent(target)
        return [tuple(image.flatten().tolist()) for image, _ in results]

    first = drawn(3)
    assert len(set(first)) == outcomes
    assert drawn(3) == first
    assert outcomes == 1 or drawn(4) != first


def test_empty_targets_are_augmented():
    target = {"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 4, 6, dtype=torch.uint8)}
    image, moved = rot90(*flip(torch.zeros(3, 4, 6), target), 1)
    assert image.shape == (3, 6, 4)
    assert (moved["boxes"].shape, moved["masks"].shape) == ((0, 4), (0, 6, 4))
