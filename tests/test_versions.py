"""Model versions on disk: what counts as a version, which one answers, and what a dead training leaves."""

import json
from datetime import datetime, timezone

import pytest

from backend.versions import PRUNED, VersionError, Versions, project_key, project_keys

KEY = "3.1700000000"
NOW = datetime(2026, 11, 24, 1, 2, 3, tzinfo=timezone.utc)


def finished(versions: Versions, number: int) -> str:
    name = f"tsp-{number:04d}-20260101T000000"
    versions.folder(name).mkdir(parents=True)
    parent = versions.list()[-1] if versions.list() else None
    (versions.folder(name) / "card.json").write_text(json.dumps({"classes": ["a"], "parent": parent}))
    (versions.folder(name) / "model.safetensors").write_bytes(bytes(9))
    return name


def test_a_new_project_has_no_version_and_the_first_name_is_number_one(tmp_path):
    versions = Versions(tmp_path, KEY)
    assert versions.list() == []
    assert versions.active() is None
    assert versions.new_name(NOW) == "tsp-0001-20261124T010203"


def test_names_count_on_past_unfinished_versions_and_past_9999(tmp_path):
    versions = Versions(tmp_path, KEY)
    finished(versions, 9999)
    assert versions.new_name(NOW) == "tsp-10000-20261124T010203"
    finished(versions, 10000)
    versions.folder("tsp-10001-20260101T000000").mkdir()
    assert versions.new_name(NOW).startswith("tsp-10002-")
    assert versions.list() == ["tsp-9999-20260101T000000", "tsp-10000-20260101T000000"]


def test_only_a_complete_version_can_be_activated_and_failing_changes_nothing(tmp_path):
    versions = Versions(tmp_path, KEY)
    first = finished(versions, 1)
    versions.activate(first)
    unfinished = versions.folder("tsp-0002-20260101T000000")
    unfinished.mkdir()
    with pytest.raises(VersionError, match="no version"):
        versions.activate(unfinished.name)
    assert Versions(tmp_path, KEY).active() == first


def test_unfinished_versions_are_removed(tmp_path):
    versions = Versions(tmp_path, KEY)
    first = finished(versions, 1)
    dead = versions.folder("tsp-0002-20260101T000000")
    dead.mkdir()
    (dead / "training.pt").touch()
    assert versions.remove_incomplete() == [dead.name]
    assert not dead.exists()
    assert versions.list() == [first]


def test_a_pointer_to_a_version_that_was_deleted_is_no_active_version(tmp_path):
    versions = Versions(tmp_path, KEY)
    first = finished(versions, 1)
    versions.activate(first)
    (versions.folder(first) / "card.json").unlink()
    assert versions.active() is None


def test_projects_do_not_share_versions_even_under_the_same_id(tmp_path):
    old, new = Versions(tmp_path, "3.100"), Versions(tmp_path, "3.200")
    old.activate(finished(old, 1))
    assert new.active() is None
    finished(new, 1)
    finished(Versions(tmp_path, "30.5"), 1)
    (tmp_path / "jobs").mkdir()
    assert project_keys(tmp_path, "3") == ["3.100", "3.200"]
    assert project_keys(tmp_path) == ["3.100", "3.200", "30.5"]
    assert project_keys(tmp_path / "absent") == []


@pytest.mark.parametrize("key", ["", "3", "../3.1", "3.1/..", "3.1\n"])
def test_what_is_no_project_key_makes_no_path(tmp_path, key):
    with pytest.raises(VersionError):
        Versions(tmp_path, key)


@pytest.mark.parametrize("name", ["", "..", "tsp-1-20260101T000000", "tsp-0001-20260101T000000/../.."])
def test_what_is_no_version_name_makes_no_path(tmp_path, name):
    with pytest.raises(VersionError):
        Versions(tmp_path, KEY).folder(name)


def test_a_damaged_card_is_one_line_that_names_the_file(tmp_path):
    versions = Versions(tmp_path, KEY)
    name = finished(versions, 1)
    (versions.folder(name) / "card.json").write_text("{")
    with pytest.raises(VersionError, match=r"card\.json is damaged"):
        versions.card(name)


@pytest.mark.parametrize(
    "created", ["2023-11-14T22:13:20.999999Z", "2023-11-14T22:13:20Z", "2023-11-15T00:13:20.500000+02:00"]
)
def test_the_key_is_the_one_label_studio_makes(created):
    assert project_key(4, created) == "4.1700000000"


def test_old_versions_are_pruned_but_for_their_cards_and_the_active_one_never(tmp_path):
    versions = Versions(tmp_path, KEY)
    names = [finished(versions, number) for number in range(1, 7)]
    versions.activate(names[1])
    assert versions.surplus(0) == [] == versions.surplus(9)
    assert versions.surplus(3) == [names[0], names[2]], "the second one is active"
    for name in versions.surplus(3):
        versions.prune(name)
    assert versions.list() == [names[1], *names[3:]]
    assert [path.name for path in versions.folder(names[2]).iterdir()] == [PRUNED]
    with pytest.raises(VersionError, match="is active"):
        versions.prune(names[1])
    with pytest.raises(VersionError, match="no version"):
        versions.activate(names[0])
    assert versions.active() == names[1]
    assert versions.lineage(names[5]) == names[::-1], "where a version came from is known still"
    assert versions.new_name(NOW).startswith("tsp-0007-"), "no name comes twice"


def test_pruning_that_was_killed_is_finished_and_never_looks_like_a_version(tmp_path):
    versions = Versions(tmp_path, KEY)
    first, second = finished(versions, 1), finished(versions, 2)
    versions.activate(second)
    folder = versions.folder(first)
    (folder / PRUNED).write_bytes((folder / "card.json").read_bytes())  # killed after the first of its steps
    assert versions.remove_incomplete() == []
    assert [path.name for path in folder.iterdir()] == [PRUNED] and versions.list() == [second]


def test_only_a_complete_version_can_be_wanted(tmp_path):
    versions = Versions(tmp_path, KEY)
    first = finished(versions, 1)
    assert versions.wanted() is None
    versions.want(first)
    with pytest.raises(VersionError, match="no version"):
        versions.want("tsp-0009-20260101T000000")
    assert Versions(tmp_path, KEY).wanted() == first
