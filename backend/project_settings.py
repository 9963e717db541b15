"""What one project sets for itself: its connection's extra_params on top of the environment's settings."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.settings import OVERRIDABLE, ServiceSettings, checked, require_an_image_each
from backend.shown import Shown
from backend.versions import Versions
from tsp_model.files import write_json
from tsp_model.settings import FIELD_NAMES, Settings, SettingsError, meant

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectSettings:
    """What counts for one project: the environment's values, overridden by its connection's extra_params."""

    train_after: int
    keep_aside: float
    shown: Shown
    push_top: int
    clusters: int
    method: Settings


def for_project(service: ServiceSettings, extra_params: Mapping[str, Any] | None) -> ProjectSettings:
    """`service` with one project's extra_params on top.

    Args:
        service: the environment's settings.
        extra_params: lower-case names: OVERRIDABLE, preset, every field of tsp_model's Settings. A preset named here
            replaces the environment's preset and its TSP_<FIELD>s.
    Raises:
        SettingsError: one line that names the unknown key or the value that cannot be used.
    """
    given = read_extra_params(extra_params)
    known = (*OVERRIDABLE, "preset", *FIELD_NAMES)
    unknown = sorted(set(given) - set(known))
    if unknown:
        remedy = meant(unknown, known)
        raise SettingsError(f"extra_params of the connection has the unknown key {', '.join(unknown)}; {remedy}")
    stands = {
        "train_after": service.train_after,
        "keep_aside": service.keep_aside,
        "show_threshold": service.shown.threshold,
        "show_area": service.shown.area,
        "show_overlap": service.shown.overlap,
        "push_top": service.push_top,
        "clusters": service.clusters,
    }
    chosen = {name: given.pop(name, value) for name, value in stands.items()}
    preset = given.pop("preset", None)
    method = service.method if preset is None else Settings.preset(str(preset))
    try:
        method = method.override(given)
        require_an_image_each(service.processes, method)
    except SettingsError as error:
        raise SettingsError(f"extra_params of the connection: {error}") from None
    return ProjectSettings(method=method, **checked(chosen, str))


def read_extra_params(given: Any) -> dict[str, Any]:
    """A connection's extra_params as Label Studio hands them over: an object where a program set them, its text where
    somebody filled in the form, "" where it was left empty.

    Raises SettingsError for anything else.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else {}
        except ValueError:
            raise SettingsError(
                f'extra_params={given[:60]!r} is no JSON object; write it as {{"preset": "tiny"}}.'
            ) from None
    given = given or {}
    if not isinstance(given, Mapping):
        raise SettingsError(f"extra_params must be a JSON object, not {type(given).__name__}.")
    return dict(given)


def remember_extra_params(model_dir: Path, key: str, extra_params: Any) -> None:
    """Keep what Label Studio's /setup sent for project `key`, for requests that do not carry it."""
    path, given = _extra_params_file(model_dir, key), read_extra_params(extra_params)
    # Written if it says nothing, too: by its folder the worker knows of a project.
    if _kept_extra_params(path) != given:
        write_json(path, given)


def remembered_extra_params(model_dir: Path, key: str) -> dict[str, Any]:
    """The extra_params of the last /setup of project `key`; empty before the first."""
    return _kept_extra_params(_extra_params_file(model_dir, key)) or {}


def _kept_extra_params(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # Label Studio sends them again with the next /setup
        logger.warning("%s is damaged (%s) and counts as empty", path, error)
        return None


def _extra_params_file(model_dir: Path, key: str) -> Path:
    return Versions(model_dir, key).root / "extra_params.json"
