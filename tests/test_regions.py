"""Masks to Label Studio regions and back."""

import base64
import io
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface
from PIL import Image

from backend import bitmask, polygons
from backend import brush as our_brush
from backend import settings as environment
from backend.label_config import LABEL_TAGS, parse_label_config
from backend.regions import to_instances, to_region, to_regions
from backend.shown import Shown
from tsp_model.data import masks
from tsp_model.predictions import Prediction

CONFIG = (
    '<View><Image name="img" value="$image"/><{tag} name="m" toName="img">'
    '<Label value="Fluid" predicted_values="SRF"/><Label value="rea"/></{tag}></View>'
)
CONFIGS = {kind: parse_label_config(CONFIG.format(tag=tag)) for kind, tag in LABEL_TAGS.items()}
BRUSH, BITMASK, POLYGON, RECTANGLE = CONFIGS.values()


def prediction(stack, labels=None, **changes):
    count = len(stack)
    values = {
        "key": "7", "height": stack.shape[1], "width": stack.shape[2], "labels": labels or [1] * count,
        "boxes": [[0.0, 0.0, 1.0, 1.0]] * count, "scores": [0.9] * count, "box_scores": [0.8] * count,
        "mask_scores": [0.7] * count, "instance_scores": [0.72] * count, "entropies": [0.3] * count,
        "counts": [rle["counts"] for rle in masks.encode(stack)], "max_class_score": 0.9, "image_score": 0.72,
    }  # fmt: skip
    return Prediction(**{**values, **changes})


def disc(size, radius, centre=None):
    y, x = np.mgrid[: size[0], : size[1]]
    row, column = centre or (size[0] / 2, size[1] / 2)
    return ((y - row) ** 2 + (x - column) ** 2 <= radius**2).astype(np.uint8)


def corner_cases():
    ragged = np.random.default_rng(0).random((37, 53)) < 0.5
    one = np.zeros((5, 7))
    one[4, 6] = 1
    line = np.zeros((64, 300))
    line[40, 3:290] = 1
    # More than 65,536 equal numbers in a row need several codes.
    return {
        "ragged": ragged,
        "one pixel": one,
        "line": line,
        "full": np.ones((301, 211)),
        "1 x 1": np.ones((1, 1)),
    }


@pytest.mark.parametrize("kind", ["brush", "bitmask"])
@pytest.mark.parametrize("name", corner_cases())
def test_brush_and_bitmask_round_trips_are_exact(name, kind):
    mask = corner_cases()[name].astype(np.uint8)
    regions = to_regions(prediction(mask[None]), ["SRF"], CONFIGS[kind])
    [(label, rle)] = to_instances(json.loads(json.dumps(regions)), size=mask.shape)
    assert label == "Fluid"
    np.testing.assert_array_equal(masks.decode([rle])[0], mask)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("size", [(3000, 4000), (4000, 17)])
def test_large_and_narrow_images_survive_every_tag(kind, size):
    mask = disc(size, min(size) / 2 - 1)
    made = json.loads(json.dumps(region(mask, tag=CONFIGS[kind])))
    [(_, rle)] = to_instances([made], size=size, boxed={"rea"}.__contains__)
    top, left = np.argwhere(mask).min(axis=0)
    bottom, right = np.argwhere(mask).max(axis=0) + 1
    if kind == "rectangle":
        mask[top:bottom, left:right] = 1
    assert masks.iou([rle], masks.encode(mask[None]))[0, 0] >= (0.95 if kind == "polygon" else 1)


def test_regions_are_the_same_with_either_codec(monkeypatch):
    assert set(our_brush.CODECS) == set(environment.BRUSH_CODECS)
    soft = np.arange(37 * 53, dtype=np.uint8).reshape(37, 53)
    found = {}
    for name in environment.BRUSH_CODECS:
        monkeypatch.setenv("TSP_BRUSH_CODEC", name)
        made = [region(mask, str(index)) for index, mask in enumerate(corner_cases().values())]
        drawn = region(np.ones_like(soft), "drawn")
        drawn["value"]["rle"] = brush.mask2rle(soft)
        found[name] = made, to_instances([*made, drawn])
    assert found["fast"] == found["sdk"]


@pytest.mark.parametrize("codec", environment.BRUSH_CODECS)
def test_a_number_that_is_no_byte_is_refused_with_either_codec(codec, monkeypatch):
    monkeypatch.setenv("TSP_BRUSH_CODEC", codec)
    made = region(np.ones((1, 1)))
    # Four numbers of nine bits, 256 each: a run of the first form, whose length has three bits.
    bits = f"{4:032b}{8:05b}" + "0010" * 4 + "100011" + f"{256:09b}"
    made["value"]["rle"] = list(int(bits.ljust(72, "0"), 2).to_bytes(9, "big"))
    with pytest.raises(ValueError, match="region a: "):
        to_instances([made])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1), st.integers(0, 2**31 - 1))
def test_any_mask_survives_brush_and_its_largest_piece_the_exact_outline(height, width, density, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < density).astype(np.uint8)
    if not mask.any():
        assert not len(polygons.exact_outline(mask))
        return
    region = to_region("rea", masks.encode(mask[None])[0], BRUSH, "r")
    np.testing.assert_array_equal(masks.decode([to_instances([region])[0][1]])[0], mask)
    ring = polygons.exact_outline(mask)
    filled = masks.decode([polygons.to_mask([ring], height, width)])[0]
    # Holes are filled and other pieces lost, nothing else: every pixel added to the mask lies inside of the
    # ring.
    assert len(ring) >= 4
    assert (filled & mask).any()
    # Tracing the filled piece again changes nothing.
    again = polygons.to_mask([polygons.exact_outline(filled)], height, width)
    np.testing.assert_array_equal(masks.decode([again])[0], filled)


@pytest.mark.parametrize("radius", [2, 4, 8, 20, 60, 150])
def test_polygon_round_trip_keeps_the_mask_with_few_points(radius):
    mask = disc((331, 421), radius)
    [region] = to_regions(prediction(mask[None]), ["SRF"], POLYGON)
    points = np.array(region["value"]["points"])
    assert points.min() >= 0
    assert points.max() <= 100
    assert len(points) <= 40
    [(_, rle)] = to_instances([region])
    assert masks.iou([rle], masks.encode(mask[None]))[0, 0] >= 0.95


@pytest.mark.parametrize("name", ["one pixel", "line", "full", "1 x 1"])
def test_thin_and_tiny_objects_are_valid_polygons(name):
    mask = corner_cases()[name].astype(np.uint8)
    region = to_region("rea", masks.encode(mask[None])[0], POLYGON, "r")
    assert len(region["value"]["points"]) >= 3
    np.testing.assert_array_equal(masks.decode([to_instances([region])[0][1]])[0], mask)


def test_a_polygon_is_the_largest_piece_with_its_holes_filled():
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[5:30, 5:30] = 1
    mask[12:15, 12:15] = 0
    mask[50:53, 70:73] = 1
    ring = polygons.outline(mask)
    expected = np.zeros_like(mask)
    expected[5:30, 5:30] = 1
    np.testing.assert_array_equal(masks.decode([polygons.to_mask([ring], 60, 80)])[0], expected)
    assert len(ring) == 4


@pytest.mark.parametrize("kind", CONFIGS)
def test_regions_are_valid_scored_unique_and_stable(kind):
    config, region_type = CONFIGS[kind], f"{kind}labels"
    same = disc((40, 50), 6)
    stack = np.stack([same, same, disc((40, 50), 3, (30, 40))])
    made = prediction(stack, [1, 1, 2], instance_scores=[0.7, 0.6, 0.5], scores=[0.934, 0.9, 0.9])
    regions = to_regions(made, ["SRF", "REA"], config)
    xml = CONFIG.format(tag=LABEL_TAGS[kind])
    assert LabelInterface(xml).validate_prediction({"result": regions, "score": 0.5}, return_errors=True) == []
    assert [region["score"] for region in regions] == [0.7, 0.6, 0.5]
    assert [region["value"][region_type] for region in regions] == [["Fluid"], ["Fluid"], ["rea"]]
    assert regions[0]["meta"] == {
        "text": ["class 0.93, box 0.80, mask 0.70"],
        "class_score": 0.934,
        "box_score": 0.8,
        "mask_score": 0.7,
    }
    assert (regions[0]["original_width"], regions[0]["original_height"]) == (50, 40)
    ids = [region["id"] for region in regions]
    assert len(set(ids)) == 3
    assert ids == [region["id"] for region in to_regions(made, ["SRF", "REA"], config)]


def test_unsure_unknown_and_empty_detections_are_left_out():
    stack = np.stack([disc((20, 20), 5)] * 3 + [np.zeros((20, 20), dtype=np.uint8)])
    made = prediction(stack, [1, 2, 1, 1], scores=[0.9, 0.9, 0.3, 0.9], instance_scores=[0.1, 0.2, 0.3, 0.4])
    assert [region["score"] for region in to_regions(made, ["SRF", "PED"], BRUSH, Shown(threshold=0.3))] == [0.1]


def test_small_masks_are_left_out_and_the_score_of_the_image_stays():
    stack = np.stack([disc((20, 20), 5), disc((20, 20), 2)])
    made = prediction(stack, [1, 1], scores=[0.9, 0.9], instance_scores=[0.1, 0.2])
    smaller = int(stack[1].sum())
    for area, scores in ((smaller, [0.1, 0.2]), (smaller + 1, [0.1])):
        assert [region["score"] for region in to_regions(made, ["SRF"], BRUSH, Shown(area=area))] == scores
        assert Shown(area=area).of(made).image_score == made.image_score


def test_outlines_are_one_for_each_piece_and_fill_what_is_enclosed():
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[2:20, 2:20] = 1
    mask[5:16, 5:16] = 0
    mask[8:12, 8:12] = 1  # an island in the hole
    mask[25:28, 30:37] = 1
    filled = mask.copy()
    filled[2:20, 2:20] = 1
    rings = polygons.outlines(mask)
    assert len(rings) == 2 and polygons.outlines(np.zeros((3, 3))) == []
    (drawn,) = masks.decode([polygons.to_mask(rings, 30, 40)])
    assert np.array_equal(drawn, filled)


def test_of_several_masks_of_one_object_the_surest_is_shown():
    whole, upper, other = (np.zeros((20, 20), dtype=np.uint8) for _ in range(3))
    whole[:10], upper[:6], other[7:13] = 1, 1, 1  # half of the other lies in the whole, all of the upper one
    made = prediction(np.stack([upper, whole, other, upper]), [1, 1, 1, 2], instance_scores=[0.3, 0.6, 0.5, 0.1])
    shown = Shown(overlap=0.5).of(made)
    assert shown.instance_scores == [0.6, 0.5, 0.1], "in the order of the prediction; another class is another object"
    assert Shown(overlap=0.49).of(made).instance_scores == [0.6, 0.1]
    assert Shown().of(made).instance_scores == made.instance_scores
    assert shown.image_score == made.image_score


def test_a_surer_part_does_not_hide_the_whole():
    whole, part = (np.zeros((20, 20), dtype=np.uint8) for _ in range(2))
    whole[:10], part[:4] = 1, 1
    made = prediction(np.stack([whole, part]), [1, 1], instance_scores=[0.3, 0.6])
    assert Shown(overlap=0.5).of(made).instance_scores == [0.3, 0.6]


def region(mask, region_id="a", labels=("rea",), tag=BRUSH):
    made = to_region("rea", masks.encode(np.asarray(mask, dtype=np.uint8)[None])[0], tag, region_id)
    made["value"][made["type"]] = list(labels)
    return made


def test_a_rectangle_is_the_box_that_the_network_found():
    made = prediction(disc((40, 50), 6)[None], boxes=[[0.0, 8.5, 30.0, 44.0]])
    [region] = to_regions(made, ["SRF"], RECTANGLE)
    xml = CONFIG.format(tag=LABEL_TAGS["rectangle"])
    assert LabelInterface(xml).validate_prediction({"result": [region], "score": 0.5}, return_errors=True) == []
    found = {name: value for name, value in region["value"].items() if name != "rectanglelabels"}
    # In percent of 50 x 40 pixels; what lies beyond the image is cut off.
    assert found == pytest.approx({"x": 0, "y": 21.25, "width": 60, "height": 78.75, "rotation": 0})


@pytest.mark.parametrize(
    ("rotation", "rows", "columns"), [(0, (20, 24), (30, 40)), (90, (20, 30), (26, 30)), (180, (16, 20), (20, 30))]
)
def test_a_rectangle_turns_clockwise_about_its_first_corner_in_pixels(rotation, rows, columns):
    turned = region(np.ones((60, 90)), tag=RECTANGLE)
    turned["value"] |= {"x": 100 / 3, "y": 100 / 3, "width": 100 / 9, "height": 100 / 15, "rotation": rotation}
    [(_, rle)] = to_instances([turned], boxed={"rea"}.__contains__)
    expected = np.zeros((60, 90), dtype=np.uint8)
    expected[slice(*rows), slice(*columns)] = 1
    np.testing.assert_array_equal(masks.decode([rle])[0], expected)


def test_a_rectangle_is_an_object_only_where_no_other_tag_could_carry_its_label():
    box, mask = region(np.ones((8, 8)), "box", tag=RECTANGLE), region(np.eye(8), "mask")
    other = region(np.ones((8, 8)), "other", labels=["Fluid"], tag=RECTANGLE)
    found = to_instances([box, mask, other], boxed={"Fluid"}.__contains__)
    assert [(label, masks.area([rle])[0]) for label, rle in found] == [("rea", 8), ("Fluid", 64)]


def test_the_editors_view_of_an_image_does_not_turn_what_was_drawn():
    for kind, config in CONFIGS.items():
        drawn = region(disc((30, 50), 8, (10, 20)), tag=config)
        turned = json.loads(json.dumps(drawn)) | {"image_rotation": 90}
        assert to_instances([turned], boxed={"rea"}.__contains__) == to_instances(
            [drawn], boxed={"rea"}.__contains__
        ), kind


def test_each_label_is_drawn_with_the_tag_that_answers_for_it():
    mixed = parse_label_config(
        '<View><Image name="img" value="$image"/>'
        '<PolygonLabels name="p" toName="img"><Label value="a"/><Label value="b"/></PolygonLabels>'
        '<BrushLabels name="m" toName="img"><Label value="b"/></BrushLabels>'
        '<RectangleLabels name="r" toName="img"><Label value="c"/></RectangleLabels></View>'
    )
    stack = np.stack([disc((40, 50), 6)] * 3)
    regions = to_regions(prediction(stack, [1, 2, 3]), ["a", "b", "c"], mixed)
    assert [(one["from_name"], one["type"]) for one in regions] == [
        ("p", "polygonlabels"),
        ("m", "brushlabels"),
        ("r", "rectanglelabels"),
    ]
    assert [label for label, _ in to_instances(regions, boxed=mixed.is_boxed)] == ["a", "b", "c"]


def test_strokes_of_one_region_are_one_instance_and_others_stay_apart():
    first, second, third = disc((30, 30), 3, (5, 5)), disc((30, 30), 3, (20, 20)), disc((30, 30), 4, (10, 20))
    instances = to_instances([region(first, "a"), region(second, "a"), region(third, "b")])
    np.testing.assert_array_equal(masks.decode([rle for _, rle in instances]), [first | second, third])


def test_soft_edges_count_where_the_stroke_covers_half_of_the_pixel():
    alpha = np.array([[0, 60, 127], [128, 200, 255]], dtype=np.uint8)
    made = region(np.ones((2, 3)))
    made["value"]["rle"] = brush.encode_rle(alpha.repeat(4))
    [(_, rle)] = to_instances([made])
    assert masks.decode([rle])[0].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_bitmask_counts_where_it_is_half_opaque_whatever_its_colours():
    pixels = np.full((2, 3, 4), 77, dtype=np.uint8)
    pixels[..., 3] = [[0, 60, 127], [128, 200, 255]]
    made = region(np.ones((2, 3)), tag=BITMASK)
    made["value"]["imageDataURL"] = png(Image.fromarray(pixels))
    [(_, rle)] = to_instances([made])
    assert masks.decode([rle])[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    made["value"]["imageDataURL"] = png(Image.new("RGBA", (3, 2)))
    assert to_instances([made]) == []


def test_a_bitmask_is_black_on_nothing_and_small():
    mask = np.zeros((200, 300), dtype=bool)
    mask[20:50, 30:90] = True
    address = region(mask, tag=BITMASK)["value"]["imageDataURL"]
    code = base64.b64decode(address.removeprefix(bitmask.PREFIX))
    found = np.asarray(Image.open(io.BytesIO(code)).convert("RGBA"))
    assert not found[..., :3].any()
    np.testing.assert_array_equal(found[..., 3], mask * 255)
    assert len(code) < mask.size / 8, "less than a bit a pixel"


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return bitmask.PREFIX + base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        (None, "does not begin with"),
        ("https://example.org/mask.png", "does not begin with"),
        (bitmask.PREFIX + "%%%", "is no base64"),
        (bitmask.PREFIX + "aGVsbG8=", "is no whole PNG"),
        (png(Image.new("RGBA", (12, 9)))[:-40], "is no whole PNG"),
        # Many megapixels in a few kilobytes: refused by the header, before anything is unpacked.
        (png(Image.new("1", (9000, 9000))), "has 9000 x 9000 pixels, not 12 x 9"),
        (png(Image.new("1", (20000, 20000))), "DecompressionBomb"),
    ],
)
def test_a_broken_bitmask_is_refused_by_its_name_in_one_line(address, cause):
    made = region(np.ones((9, 12)), tag=BITMASK)
    made["value"]["imageDataURL"] = address
    with pytest.raises(ValueError, match="region a: ") as caught:
        to_instances([made])
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_polygon_that_crosses_itself_is_its_loops():
    crossed = region(np.ones((20, 20)), tag=POLYGON)
    crossed["value"]["points"] = [[0, 0], [100, 100], [100, 0], [0, 100]]
    [(_, rle)] = to_instances([crossed])
    found = masks.decode([rle])[0]
    assert abs(int(found.sum()) - 200) <= 20  # left and right triangle, half of the image
    assert found[10, 1] and found[10, 18] and not found[1, 10] and not found[18, 10]


@pytest.mark.parametrize(
    ("name", "value"), [("x", None), ("width", "wide"), ("height", float("nan")), ("rotation", [90]), ("y", 1e400)]
)
def test_broken_rectangles_are_refused(name, value):
    made = region(np.ones((9, 9)), tag=RECTANGLE)
    made["value"][name] = value
    with pytest.raises(ValueError, match="region a: "):
        to_instances([made], boxed={"rea"}.__contains__)


def test_what_is_not_a_labelled_mask_is_ignored(caplog):
    erased = region(np.ones((4, 4)), "erased")
    erased["value"]["rle"] = brush.mask2rle(np.zeros((4, 4), dtype=np.uint8))
    result = [
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right"},
        {"id": "c", "type": "choices", "from_name": "q", "to_name": "img", "value": {"choices": ["good"]}},
        {"id": "d", "type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 5, "height": 5}},
        region(np.ones((4, 4)), "unlabelled", labels=()),
        erased,
    ]
    with caplog.at_level(logging.WARNING):
        assert to_instances(result) == []
    assert [record.args[0] for record in caplog.records] == ["erased"]


def test_of_several_labels_the_first_counts_and_the_log_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        [(label, _)] = to_instances([region(np.ones((4, 4)), labels=("rea", "Fluid"))])
    assert label == "rea"
    assert "rea, Fluid" in caplog.text


def test_an_open_polygon_is_closed_and_two_points_are_nothing():
    square = region(np.ones((10, 10)), tag=POLYGON)
    square["value"] = {"points": [[0, 0], [50, 0], [50, 50]], "closed": False, "polygonlabels": ["rea"]}
    [(_, rle)] = to_instances([square], size=(20, 40))
    assert rle["size"] == [20, 40]
    assert 80 <= masks.area([rle])[0] <= 120  # half of 10 x 20 pixels
    square["value"]["points"] = [[0, 0], [50, 0]]
    assert to_instances([square]) == []


BROKEN = {
    "no value": (lambda made: made.pop("value"), "it has no 'value'"),
    "no width": (lambda made: made.pop("original_width"), "original_width is None"),
    "text for a width": (lambda made: made.update(original_width="12"), "original_width is '12'"),
    "another format": (lambda made: made["value"].update(format="png"), "format is 'png'"),
    "no rle": (lambda made: made["value"].pop("rle"), "it has no 'rle'"),
    "not bytes": (lambda made: made["value"].update(rle=[0, 0, 1, 300]), "not a list of bytes"),
    "wrong length": (lambda made: made["value"].update(rle=[255] * 20), "holds 4294967295 numbers"),
    "cut off": (lambda made: made["value"].update(rle=made["value"]["rle"][:9]), "region a: "),
    "labels as text": (lambda made: made["value"].update(brushlabels="rea"), "not a list of names"),
    "another image": (lambda made: None, "drawn on an image of 12 x 9 pixels, this one has 8 x 8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_region_is_refused_by_its_name_in_one_line(name):
    made = region(np.eye(9, 12))
    breaks, cause = BROKEN[name]
    breaks(made)
    with pytest.raises(ValueError, match="region a: ") as caught:
        to_instances([made], size=(8, 8) if name == "another image" else None)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("points", [[[1, 2], [3]], [[1, 2], [3, "x"], [4, 5]], [[1, 2], [3, float("nan")], [4, 5]], 7])
def test_broken_polygon_points_are_refused(points):
    made = region(np.ones((9, 9)), tag=POLYGON)
    made["value"]["points"] = points
    with pytest.raises(ValueError, match="region a: "):
        to_instances([made])


def test_an_empty_mask_is_no_region():
    with pytest.raises(ValueError, match="empty"):
        to_region("rea", masks.encode(np.zeros((1, 4, 4)))[0], BRUSH, "r")
