"""Which labeling configurations are usable, and which label a model's class gets."""

import pytest

from backend.label_config import LabelConfigError, LabelTag, parse_label_config


def config(labels='<Label value="REA"/><Label value="PED"/>', tag="BrushLabels", extra="", image='value="$image"'):
    return f'<View><Image name="img" {image}/>{extra}<{tag} name="masks" toName="img">{labels}</{tag}></View>'


@pytest.mark.parametrize(
    ("tag", "kind", "region_type"),
    [
        ("BrushLabels", "brush", "brushlabels"),
        ("BitmaskLabels", "bitmask", "bitmasklabels"),
        ("PolygonLabels", "polygon", "polygonlabels"),
        ("RectangleLabels", "rectangle", "rectanglelabels"),
    ],
)
def test_finds_the_tag_its_image_and_its_labels(tag, kind, region_type):
    found = parse_label_config(config(tag=tag, image='value="$oct"'))
    assert (found.labels, found.image_key) == (("REA", "PED"), "oct")
    assert set(found.tags.values()) == {LabelTag(kind, "masks", "img")}
    assert found.tags["REA"].region_type == region_type
    assert found.boxed == (set(found.labels) if kind == "rectangle" else set())


def control(tag, name, *labels):
    inner = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<{tag} name="{name}" toName="img">{inner}</{tag}>'


def test_of_two_tags_each_answers_for_its_own_labels():
    found = parse_label_config(config(extra=control("RectangleLabels", "boxes", "macula", "disc")))
    assert found.labels == ("macula", "disc", "REA", "PED")
    assert [tag.kind for tag in found.tags.values()] == ["rectangle", "rectangle", "brush", "brush"]
    assert found.ignored == ()
    assert found.boxed == {"macula", "disc"}


@pytest.mark.parametrize("order", [1, -1])
def test_a_label_of_two_tags_is_drawn_with_the_one_that_shows_it_best(order):
    tags = [control("PolygonLabels", "polygons", "REA", "PED"), control("RectangleLabels", "boxes", "REA", "cyst")]
    found = parse_label_config(f'<View><Image name="img" value="$image"/>{"".join(tags[::order])}</View>')
    kinds = {label: tag.kind for label, tag in found.tags.items()}
    assert kinds == {"REA": "polygon", "PED": "polygon", "cyst": "rectangle"}
    assert found.boxed == {"cyst"}


def test_of_two_tags_of_one_kind_the_first_answers_for_a_label_of_both():
    extra = control("BrushLabels", "first", "REA", "macula")
    found = parse_label_config(config(extra=extra))
    assert {label: tag.from_name for label, tag in found.tags.items()} == {
        "REA": "first", "macula": "first", "PED": "masks",
    }  # fmt: skip


def test_other_tags_comments_and_a_declaration_do_not_disturb():
    extra = (
        '<!-- a note --><Header value="x"/><Choices name="q" toName="img"><Choice value="good"/></Choices>'
        '<KeyPointLabels name="points" toName="img" smart="true"><Label value="macula"/></KeyPointLabels>'
        '<Rectangle name="frame" toName="img"/>'
    )
    found = parse_label_config('<?xml version="1.0" encoding="utf-8"?>\n' + config(extra=extra))
    assert found.labels == ("REA", "PED") and found.ignored == ("Choices", "KeyPointLabels", "Rectangle")


def test_labels_in_nested_views_and_with_an_alias_are_found_as_results_name_them():
    found = parse_label_config(config('<View><Label value="Fluid" alias="SRF"/></View><Label value="REA"/>'))
    assert found.labels == ("SRF", "REA")


def test_a_class_finds_its_label_by_predicted_values_then_name_then_lower_case():
    labels = '<Label value="Oedema" predicted_values="REA, rea2"/><Label value="REA"/><Label value="Ped"/>'
    found = parse_label_config(config(labels))
    assert found.label_for("REA") == "Oedema"  # predicted_values win over the exact name
    assert found.label_for("rea2") == "Oedema"
    assert found.label_for("Ped") == "Ped"
    assert found.label_for("PED") == "Ped"
    assert found.label_for("REA2") == "Oedema"
    assert found.label_for("SRF") is None


def test_names_that_differ_in_case_only_matter_only_where_they_are_ambiguous():
    found = parse_label_config(config('<Label value="REA"/><Label value="rea"/>'))
    assert found.label_for("REA") == "REA"
    assert found.label_for("rea") == "rea"
    assert found.label_for("Rea") is None


@pytest.mark.parametrize(
    ("xml", "cause"),
    [
        ("", "is empty"),
        ("<View>", "not valid"),
        ("nonsense", "not valid"),
        ("<View/>", "no tag for objects"),
        (config(tag="EllipseLabels"), "it has <EllipseLabels>"),
        (
            config(extra='<PolygonLabels name="p" toName="text"><Label value="a"/></PolygonLabels>'),
            'name="p"> has toName="text"',
        ),
        (
            config(extra='<PolygonLabels name="p" toName="img"/>'),
            'name="p"> has no labels',
        ),
        (
            config(
                '<Label value="a" predicted_values="x"/>',
                extra='<PolygonLabels name="p" toName="img"><Label value="b" predicted_values="x"/></PolygonLabels>',
            ),
            '"x" is among',
        ),
        (config(extra='<Image name="second" value="$second"/>'), "several images"),
        (config(image='valueList="$images"'), "a list of images"),
        (config(image='value="https://example.org/x.png"'), "no field of the task"),
        (config(labels=""), "no labels"),
        (config().replace('toName="img"', 'toName="text"'), "not the one image"),
        (
            config().replace('<Image name="img" value="$image"/>', '<Text name="img" value="$text"/>'),
            "no <Image>",
        ),
        (
            config('<Label value="a" predicted_values="x"/><Label value="b" predicted_values="x"/>'),
            '"x" is among',
        ),
    ],
)
def test_unusable_configurations_are_refused_in_one_line_with_a_remedy(xml, cause):
    with pytest.raises(LabelConfigError) as caught:
        parse_label_config(xml)
    message = str(caught.value)
    assert cause in message
    assert "\n" not in message
    assert ": " in message  # cause: remedy


ENTITIES = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    ("declared", "used"),
    [(f'<!ENTITY a0 "aaaaaaaaaa">{ENTITIES}', "&a9;"), ('<!ENTITY file SYSTEM "file:///etc/hostname">', "&file;")],
    ids=["a billion letters", "a file of this machine"],
)
def test_entities_neither_fill_the_memory_nor_read_files(declared, used):
    with pytest.raises(LabelConfigError, match="is not valid"):
        parse_label_config(f"<!DOCTYPE View [{declared}]>" + config(f'<Label value="{used}"/>'))
