"""What a run of Algorithm 1 was asked for, and what it keeps on disk to go on with."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.connection import connect
from backend.project import LabelStudioProject
from backend.settings import address
from scripts import smoke
from scripts.command_line import CommandError
from scripts.service import BACKEND_URL
from tsp_model.files import write_json
from tsp_model.settings import Settings

STATE = "experiment.json"


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Where Label Studio and the backend are; the same for every command that asks them."""
    add = parser.add_argument
    add("--url", default=None, help="of Label Studio (default: LABEL_STUDIO_URL, else http://localhost:8080)")
    add("--api-key", default=None, help="its token (default: LABEL_STUDIO_API_KEY)")
    add("--backend-url", default=BACKEND_URL, help="as Label Studio reaches it (default: %(default)s)")


def add_model_dir_argument(parser: argparse.ArgumentParser) -> None:
    """Where the backend keeps its models, for a command that looks there."""
    seen = "the backend's MODEL_DIR, seen from here (default: MODEL_DIR, else models)"
    parser.add_argument("--model-dir", default=None, help=seen)


def add_project_argument(parser: argparse.ArgumentParser) -> None:
    """The project that a command is about."""
    parser.add_argument("--project", type=int, required=True, help="its number, as in its address")


@dataclass(frozen=True)
class Place:
    """Where runs go: a Label Studio, and the backend that its projects are connected to."""

    url: str
    api_key: str
    backend_url: str
    model_dir: str

    @staticmethod
    def choose(
        backend_url: str, url: str | None = None, api_key: str | None = None, model_dir: str | None = None
    ) -> Place:
        """What is not given is the environment's: LABEL_STUDIO_URL, LABEL_STUDIO_API_KEY and MODEL_DIR.

        Raises SettingsError for what is no address.
        """
        environment = os.environ.get
        studio = "--url" if url else "LABEL_STUDIO_URL"
        return Place(
            address(studio, url or environment("LABEL_STUDIO_URL") or "http://localhost:8080"),
            api_key or environment("LABEL_STUDIO_API_KEY") or "",
            address("--backend-url", backend_url),
            model_dir or environment("MODEL_DIR") or "models",
        )

    @staticmethod
    def from_arguments(arguments: argparse.Namespace) -> Place:
        """What `add_place_arguments` asked for, and `add_model_dir_argument` where it did."""
        model_dir = getattr(arguments, "model_dir", None)
        return Place.choose(arguments.backend_url, arguments.url, arguments.api_key, model_dir)

    def project(self, number: int) -> LabelStudioProject:
        """A project of this Label Studio. Raises ProjectError, LabelConfigError."""
        return LabelStudioProject(connect(self.url, self.api_key), number)


@dataclass(frozen=True)
class Plan:
    """What a run was asked for; the same plan in the same folder goes on where it was.

    `cell` is the name of the line that its results belong to, where it is part of a grid of experiments.
    """

    data: str
    strategy: str
    ssl: bool
    cycles: int
    per_cycle: int
    seed: int
    label_tag: str
    train_images: int | None
    test_images: int | None
    method: dict[str, Any]
    url: str
    api_key: str
    backend_url: str
    model_dir: str
    out: str
    cell: str | None = None

    @staticmethod
    def from_arguments(arguments: argparse.Namespace) -> Plan:
        """Checked arguments of scripts.active_learning. Raises SettingsError or CommandError."""
        values = dict(vars(arguments))
        smokes = values.pop("smoke")
        values |= smoke.RUN if smokes else {}
        pairs = [entry.partition("=") for entry in values.pop("set")]
        unfinished = [name for name, equals, _ in pairs if not equals]
        if unfinished:
            raise CommandError(f"--set {unfinished[0]} has no value; write --set {unfinished[0]}=VALUE.")
        for name in ("cycles", "per_cycle", "train_images", "test_images"):
            if values[name] is not None and values[name] < 1:
                raise CommandError(f"--{name.replace('_', '-')} must be at least 1.")
        asked = {"strategy": arguments.strategy, "ssl": arguments.ssl, "seed": arguments.seed}
        chosen = {name.strip(): value for name, _, value in pairs} | asked | (smoke.METHOD if smokes else {})
        values["method"] = Settings.preset(values.pop("preset")).override(chosen).to_dict()
        values |= asdict(Place.from_arguments(arguments))
        return Plan(**values)

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change between a run and its continuation; more cycles may be asked for."""
        where = ("url", "api_key", "backend_url", "model_dir", "out")
        return {name: value for name, value in asdict(self).items() if name not in (*where, "cycles")}


class State:
    """A small JSON file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def set(self, **values: Any) -> None:
        self._values |= values
        write_json(self._path, self._values)

    def check(self, plan: Plan) -> None:
        """Raise CommandError if this is another plan's state."""
        identity = json.loads(json.dumps(plan.identity))
        known = dict(self.get("plan", identity))
        if "method" in known:  # settings that are new since then had their defaults
            known["method"] = Settings.from_dict(known["method"]).to_dict()
        changed = sorted(name for name in identity if known.get(name) != identity[name])
        if changed:
            raise CommandError(
                f"{self._path.parent} holds a run with another {', '.join(changed)}; choose another --out, or repeat "
                "the old command to go on."
            )
