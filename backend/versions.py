"""Model versions on disk: a folder each, whose weights and card never change; one of them is active.

    MODEL_DIR/<project key>/versions/<version>/{card.json, model.safetensors, predictions.jsonl, ...}
    MODEL_DIR/<project key>/active          the active version's name, replaced atomically
    MODEL_DIR/<project key>/wanted          the name of the version that somebody asked to activate
    MODEL_DIR/<project key>/wanted_strategy the strategy that somebody asked to rank the tasks by

A project key is Label Studio's own "<id>.<seconds of creation>": one made anew under an old id is another
project. A version counts once its card.json is there, which is written last; anything else is the rest of a
training that died.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tsp_model.errors import ExplainedError
from tsp_model.files import read_json, write_json, write_text

# What /setup answers before the first training; no prediction ever has this version.
UNTRAINED = "untrained"
ENDED = "ended"
COMPARISON = "comparison.json"  # with the version that answered when this one was new
SUMMARY = ("classes", "counts", "metrics", "warnings", "parent", "train_seconds")
PRUNED = "pruned.json"  # the card of a version of which nothing else is left

_KEY = re.compile(r"[0-9]+\.[0-9]+")
_VERSION = re.compile(r"tsp-([0-9]{4,})-[0-9]{8}T[0-9]{6}")


class VersionError(ExplainedError, ValueError):
    """A version or project that cannot be used; the message is one line."""


class Versions:
    """The versions of one project.

    Args:
        model_dir: MODEL_DIR.
        key: the project key, "<id>.<seconds>"; anything else is refused, since it becomes a path. `number` is its first
            part, by which people know the project.
    """

    def __init__(self, model_dir: Path, key: str) -> None:
        if not _KEY.fullmatch(key):
            raise VersionError(f"{key!r} is no project key; Label Studio writes it as <id>.<seconds of creation>.")
        self.key, self.number = key, project_number(key)
        self.root = Path(model_dir) / key
        self._folder = self.root / "versions"
        self._pointer, self._wanted = self.root / "active", self.root / "wanted"
        self._strategy = self.root / "wanted_strategy"

    def folder(self, version: str) -> Path:
        """Where `version` lives, whether it is there or not; VersionError for what is no version's name."""
        if not _VERSION.fullmatch(version):
            raise VersionError(f"{version!r} is no version's name; they read tsp-0003-20261124T010203.")
        return self._folder / version

    def list(self) -> list[str]:
        """Complete versions, oldest first."""
        complete = (name for name in self._names() if (self._folder / name / "card.json").is_file())
        return sorted(complete, key=_number)

    def card(self, version: str) -> dict[str, Any]:
        """The card of a complete version; VersionError if it has none."""
        path = self.folder(version) / "card.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise VersionError(f"project {self.number} has no version {version}.") from None
        except json.JSONDecodeError as error:
            raise VersionError(f"{path} is damaged ({error}); activate another version.") from None

    def summary(self, version: str) -> dict[str, Any]:
        """What people want to know of a complete version: of its card SUMMARY and its strategy, and how it compared
        with the version before it where it was compared; `warnings` alone for one whose card is damaged."""
        try:
            card = self.card(version)
        except VersionError as error:
            return {"warnings": [str(error)]}
        compared = self.folder(version) / COMPARISON
        told = {name: card.get(name) for name in SUMMARY} | {"strategy": card.get("settings", {}).get("strategy")}
        return told | ({"comparison": json.loads(compared.read_text(encoding="utf-8"))} if compared.is_file() else {})

    def active(self) -> str | None:
        """The version that answers, or None before the first training; read anew, since another process
        switches."""
        try:
            version = self._pointer.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return version if (self.folder(version) / "card.json").is_file() else None

    def activate(self, version: str | None) -> None:
        """Let `version` answer from now on, or none; VersionError, and nothing changed, if it is not complete."""
        if version is None:
            self._pointer.unlink(missing_ok=True)
            return
        self.card(version)
        write_text(self._pointer, version + "\n")

    def end(self, version: str) -> None:
        """Note that the training of `version` came to its end: it answers, or was found to be worse."""
        (self.folder(version) / ENDED).touch()

    def last_ended(self) -> str | None:
        """The newest version whose training came to its end, whether it answers or not."""
        ended = [version for version in self.list() if (self.folder(version) / ENDED).is_file()]
        return ended[-1] if ended else None

    def want(self, version: str) -> None:
        """Ask for `version` to be activated, by the job that does so; VersionError if it is not complete."""
        self.card(version)
        write_text(self._wanted, version + "\n")

    def wanted(self) -> str | None:
        """The version that was asked for last, or None."""
        return self._wanted.read_text(encoding="utf-8").strip() if self._wanted.is_file() else None

    def want_strategy(self, strategy: str | None) -> None:
        """Ask for the tasks to be ranked by `strategy`, by the job that does so; None: by the active version's own."""
        write_text(self._strategy, (strategy or "") + "\n")

    def wanted_strategy(self) -> str | None:
        """The strategy that was asked for last, or None."""
        return (self._strategy.read_text(encoding="utf-8").strip() or None) if self._strategy.is_file() else None

    def lineage(self, version: str | None) -> list[str]:
        """`version` and those it came from, newest first, pruned ones too; as far as they are known."""
        found: list[str] = []
        while version is not None and (card := self._card_of(version)) is not None:
            found.append(version)
            version = card["parent"]
        return found

    def surplus(self, keep: int) -> list[str]:
        """Complete versions beyond the newest `keep`, oldest first, without the active one; none if `keep` is 0."""
        old = self.list()[:-keep] if keep else []
        active = self.active()
        return [version for version in old if version != active]

    def prune(self, version: str) -> None:
        """Delete a version but for its card, by which later ones know where they came from.

        Raises VersionError for the active one.
        """
        if version == self.active():
            raise VersionError(f"{version} is active; activate another version before it is deleted.")
        folder = self.folder(version)
        try:
            card = self.card(version)
        except VersionError:  # damaged: whoever came from it came from nowhere
            card = {"parent": None}
        write_json(folder / PRUNED, card)
        self._empty(folder)

    def new_name(self, now: datetime | None = None) -> str:
        """A name that no version of this project had: tsp-<counter>-<UTC time>. Unfinished versions count
        too."""
        last = max((_number(name) for name in self._names()), default=0)
        stamp = (now or datetime.now(timezone.utc)).astimezone(timezone.utc).strftime("%Y%m%dT%H%M%S")
        return f"tsp-{last + 1:04d}-{stamp}"

    @property
    def authorised_file(self) -> Path:
        """Digest of the credentials that the project's webhooks were last told to send."""
        return self.root / "webhooks_authorised"

    @property
    def order_file(self) -> Path:
        """Which order of tasks is in force, as backend.task_order found it last."""
        return self.root / "order.json"

    def order(self) -> dict[str, Any] | None:
        """What `order_file` holds; None where nothing was found yet, or the file is damaged."""
        return read_json(self.order_file)

    @property
    def dismissed_file(self) -> Path:
        """The annotations that the training read which was cancelled last: they start none by themselves again."""
        return self.root / "dismissed.json"

    def dismissed(self) -> list[str]:
        """What `dismissed_file` holds; nothing where no training was cancelled."""
        return read_json(self.dismissed_file) or []

    def discard(self, version: str) -> None:
        """Delete a version that never answered as if it had not been made."""
        shutil.rmtree(self.folder(version), ignore_errors=True)

    @property
    def left_out_file(self) -> Path:
        """Why tasks are left out, by their id, as a job found it that read the project's images last."""
        return self.root / "left_out.json"

    def left_out(self) -> dict[str, str]:
        """What `left_out_file` holds; nothing where no job read images yet, or the file is damaged."""
        return read_json(self.left_out_file) or {}

    def remove_incomplete(self) -> list[str]:
        """Delete what dead trainings left; only the project's running job may call this.

        Returns: the names removed.
        """
        gone = []
        for name in list(self._names()):
            folder = self._folder / name
            if (folder / PRUNED).is_file():
                self._empty(folder)
            elif not (folder / "card.json").is_file():
                shutil.rmtree(folder)
                gone.append(name)
        return gone

    @staticmethod
    def _empty(folder: Path) -> None:
        """Finish pruning. The card first: without it the version is no complete one any more."""
        (folder / "card.json").unlink(missing_ok=True)
        for entry in folder.iterdir():
            if entry.is_dir():  # TensorBoard's
                shutil.rmtree(entry)
            elif entry.name != PRUNED:
                entry.unlink()

    def _card_of(self, version: str) -> dict[str, Any] | None:
        """The card of a version that is complete or pruned."""
        files = (self.folder(version) / name for name in ("card.json", PRUNED))
        try:
            return next((json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()), None)
        except ValueError:  # damaged: nothing is known of where it came from
            return None

    def _names(self) -> Iterator[str]:
        if self._folder.is_dir():
            yield from (entry.name for entry in self._folder.iterdir() if _VERSION.fullmatch(entry.name))


def _number(version: str) -> int:
    match = _VERSION.fullmatch(version)
    assert match is not None
    return int(match.group(1))


def project_keys(model_dir: Path, project_id: str | None = None) -> list[str]:
    """Keys of the projects that have a folder under MODEL_DIR, by id and time; only those of `project_id` if
    given."""
    if not Path(model_dir).is_dir():
        return []
    keys = [entry.name for entry in Path(model_dir).iterdir() if entry.is_dir() and _KEY.fullmatch(entry.name)]
    keys.sort(key=lambda key: tuple(int(part) for part in key.split(".")))
    return [key for key in keys if project_id is None or key.split(".")[0] == project_id]


def versions_of(model_dir: Path, project: str) -> Versions:
    """The versions of a project, named by its key or, as people know it, by its bare id (the newest of that id).

    Raises VersionError if no project of that id was ever connected.
    """
    if "." in project:
        return Versions(model_dir, project)
    keys = project_keys(model_dir, project)
    if not keys:
        raise VersionError(
            f"project {project!r} has done nothing here yet; give the number in its address, and see the backend's "
            "terminal if it is connected."
        )
    return Versions(model_dir, keys[-1])


def project_number(key: str) -> int:
    """The project's number in its address, by which people know it."""
    return int(key.partition(".")[0])


def project_key(project_id: int, created_at: str | datetime) -> str:
    """The key Label Studio itself makes from a project's id and time of creation (text in ISO 8601)."""
    if isinstance(created_at, str):
        created_at = datetime.fromisoformat(created_at.replace("Z", "+00:00"))
    if created_at.tzinfo is None:
        created_at = created_at.replace(tzinfo=timezone.utc)
    return f"{int(project_id)}.{int(created_at.timestamp())}"
