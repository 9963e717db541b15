"""OCT folders: components of grey values as instances, pairs, splits, and every kind of mistake."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.data_sets import load_sets
from scripts.grid.spec import read_grid
from tsp_model.data import DataError
from tsp_model.data.oct import load_oct

REPOSITORY = Path(__file__).parents[1]
PED, SRF, REA = 128, 191, 255


def drawn(*rows: str) -> np.ndarray:
    """A label image of letters: P, S, R and dots."""
    grey = {".": 0, "P": PED, "S": SRF, "R": REA}
    return np.array([[grey[letter] for letter in row] for row in rows], dtype=np.uint8)


LABEL = drawn(
    "P..SS.",
    ".P.S.S",
    "...RRR",
    "P....R",
)


def write(folder: Path, name: str, label: np.ndarray | None = None, volume: tuple[str, str] = ("", "")) -> None:
    """An image under original_images/ and its label image under label_images/ of a split's folder."""
    label = LABEL if label is None else label
    for place, pixels, sub in (("original_images", 255 - label, 0), ("label_images", label, 1)):
        path = folder / place / volume[sub] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        write(tmp_path / split, "b.bmp")
        write(tmp_path / split, "a.bmp", np.zeros((4, 6), np.uint8))
    return tmp_path


def test_each_component_of_a_grey_value_is_an_instance_and_corners_connect(folder: Path) -> None:
    found = load_oct(folder)
    assert found.keys == ("a.bmp", "b.bmp")
    assert found.classes == ("PED", "SRF", "REA")
    assert found.items[0].instances == ()
    image, target = found[1]
    assert image[0].tolist() == (255 - LABEL).tolist()
    assert target["labels"].tolist() == [1, 1, 2, 3]
    expected = [
        ["P.....", ".P....", "......", "......"],
        ["......", "......", "......", "P....."],
        ["...SS.", "...S.S", "......", "......"],
        ["......", "......", "...RRR", ".....R"],
    ]
    assert [mask.tolist() for mask in target["masks"]] == [(drawn(*rows) > 0).astype(int).tolist() for rows in expected]
    assert target["boxes"][0].tolist() == [0, 0, 2, 2]


def test_together_the_instances_are_the_label_image(folder: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(np.array([0, PED, SRF, REA], np.uint8), (40, 30))
    write(folder / "train", "c.bmp", label)
    _, target = load_oct(folder)[2]
    values = np.array([PED, SRF, REA])[target["labels"].numpy() - 1]
    assert (target["masks"].sum(0) <= 1).all()
    assert ((target["masks"].numpy() * values[:, None, None]).sum(0) == label).all()


def test_volumes_and_the_other_layout_and_any_suffix(tmp_path: Path) -> None:
    for volume in ("one", "two"):
        write(tmp_path / "train", "1.bmp", volume=(f"{volume}.img", f"{volume}_labelMark"))
    labels = tmp_path / "train" / "label_images" / "two_labelMark"
    Image.open(labels / "1.bmp").convert("RGB").save(labels / "1.png")
    (labels / "1.bmp").unlink()
    (labels / "Thumbs.db").write_bytes(b"no image")
    found = load_oct(tmp_path)
    assert found.keys == ("one.img/1.bmp", "two.img/1.bmp")
    assert [len(item.instances) for item in found.items] == [4, 4]
    for name in ("original_images", "label_images"):
        (tmp_path / name).mkdir()
        (tmp_path / "train" / name).rename(tmp_path / name / "train")
    assert load_oct(tmp_path).keys == found.keys


def jpeg(folder: Path) -> None:
    label = np.kron(LABEL, np.ones((7, 7), np.uint8))
    write(folder / "train", "c.bmp", label)
    (folder / "train" / "label_images" / "c.bmp").unlink()
    Image.fromarray(label).save(folder / "train" / "label_images" / "c.jpg")


def change(name: str, pixels: np.ndarray) -> object:
    return lambda folder: Image.fromarray(pixels).save(folder / "train" / name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change("label_images/b.bmp", LABEL + np.uint8(1)), r"b.bmp has unknown grey values \(1, 129, 192\);.*128 PED"),
        (jpeg, r"c.jpg has unknown grey values \(.*\.\.\.\);.*JPEG compression.*export it as PNG or BMP"),
        (change("label_images/b.bmp", LABEL[:, :5]), r"b.bmp has height and width \(4, 5\), its image \(4, 6\)"),
        (change("label_images/b.bmp", np.dstack([LABEL, LABEL, LABEL * 0])), "b.bmp is in colour; export it in grey"),
        (change("original_images/c.bmp", LABEL), r"1 files of .*original_images have no partner.*\(c\); add it"),
        (change("label_images/c.bmp", LABEL), r"1 files of .*label_images have no partner.*\(c\); add it"),
        (change("original_images/b.png", LABEL), "b.bmp and .*b.png have the same name but for the suffix"),
        (lambda folder: (folder / "train/label_images/b.bmp").write_bytes(b"oops"), "cannot read the label .*b.bmp"),
        (lambda folder: (folder / "train/original_images/b.bmp").write_bytes(b"oops"), "cannot read the image .*b.bmp"),
        (lambda folder: (folder / "train/label_images").rename(folder / "labels"), "no folder .*train/label_images;"),
        (lambda folder: (folder / "train").rename(folder / "training"), "has no split train: put original_images/"),
        (
            lambda folder: [path.unlink() for path in folder.glob("train/*/*")],
            "original_images holds no image .*; put some there",
        ),
    ],
)
def test_bad_folders_are_refused_in_one_line(folder: Path, spoil, message: str) -> None:
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        load_oct(folder)
    assert "\n" not in str(caught.value)


def test_the_ready_experiment_reads_such_a_folder(folder: Path) -> None:
    text = (REPOSITORY / "scripts" / "experiments" / "paper-oct.toml").read_text()
    file = folder / "grid.toml"
    file.write_text(text.replace("data/oct", folder.as_posix()))
    grid = read_grid(file)
    assert grid.data == folder.as_posix()
    train, test = load_sets(grid.data, grid.train_images, grid.test_images, folder / "out", 1024, seed=0)
    assert train.classes == test.classes == ("PED", "SRF", "REA")
    assert (len(train), len(test)) == (2, 2)
