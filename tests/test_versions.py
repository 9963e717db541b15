"""Model versions on disk: what counts as a version, which one answers, and what a dead training leaves."""

from datetime import datetime, timezone

import pytest

from backend.versions import VersionError, Versions, project_key, project_keys

KEY = "3.1700000000"
NOW = datetime(2026, 11, 24, 1, 2, 3, tzinfo=timezone.utc)


def finished(versions: Versions, number: int) -> str:
    name = f"tsp-{number:04d}-20260101T000000"
    versions.folder(name).mkdir(parents=True)
    (versions.folder(name) / "card.json").write_text('{"classes": ["a"]}')
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
