"""Every environment variable of the service in one place, read once into a frozen dataclass.

Importing this module imports neither torch nor the Label Studio SDK, so that a wrong value is reported at
once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backend.image_limits import MOST_MEGAPIXELS, ImageLimits
from backend.shown import Shown
from tsp_model.settings import CHOICES, FIELD_NAMES, PRESETS, Settings, SettingsError

PREFIX = "TSP_"
MOST_THREADS = 256
TOKEN = (
    "a personal access token (Account & Settings > Personal Access Token; one a user) or, where the organisation "
    "allows them, a legacy token"
)


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name, its default as text, and what it means."""

    name: str
    default: str
    meaning: str


def threads_by_default() -> int:
    """OMP_NUM_THREADS, as PyTorch itself, else one for each core; MOST_THREADS at most.

    All of them, since the worker is niced: annotators hardly feel it (measured: scripts/speed/README.md).
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # a number for each level of nesting
    threads = int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0))
    return min(threads, MOST_THREADS)


# The order is the README's.
VARIABLES: tuple[Variable, ...] = (
    Variable("LABEL_STUDIO_URL", "http://localhost:8080", "where Label Studio answers"),
    Variable("LABEL_STUDIO_API_KEY", "", "access token of Label Studio, legacy or personal; required"),
    Variable("MODEL_DIR", "models", "folder of model versions, cached images and the job database"),
    Variable(
        "TSP_DATABASE_URL",
        "",
        "job database that several workers share, postgresql://user:password@host/name; empty: SQLite in MODEL_DIR",
    ),
    Variable("HOST", "127.0.0.1", "address the web service listens on"),
    Variable("PORT", "9090", "port the web service listens on"),
    Variable("WEB_THREADS", "16", "threads of the web service"),
    Variable(
        "TORCH_THREADS",
        str(threads_by_default()),
        "threads torch may use in the worker and in the web service, each; by default OMP_NUM_THREADS, else one a core",
    ),
    Variable("TSP_PROCESSES", "1", "processes of this machine that train and score a pool together, one a GPU"),
    Variable("TSP_KEEP_MEMORY", "true", "web service and worker keep freed memory for the next time, which is quicker"),
    Variable("BASIC_AUTH_USER", "", "user name asked of Label Studio; empty like the password: no check"),
    Variable("BASIC_AUTH_PASS", "", "password asked of Label Studio"),
    Variable("TSP_TRAIN_AFTER", "20", "train after so many new annotations; 0: only on Start training"),
    Variable("TSP_LOOK_MINUTES", "5", "minutes between looks for what no webhook told; 0: at the start only"),
    Variable(
        "TSP_KEEP_ASIDE",
        "0.1",
        "share of the labelled images kept out of training, once they are 30, so that no worse version is activated",
    ),
    Variable("TSP_KEEP_VERSIONS", "10", "versions of a project that are kept, the active one always; 0: all"),
    Variable("TSP_KEEP_JOBS", "30", "days for which /job_status knows of a job that ended, of the last one for ever"),
    Variable("TSP_SHOW_THRESHOLD", "0.3", "class score above which an instance is shown to annotators"),
    Variable("TSP_SHOW_AREA", "0", "pixels of the image that a mask needs to be shown to annotators"),
    Variable(
        "TSP_SHOW_OVERLAP", "0.5", "share of a mask that a surer one of its label may cover for it to be shown; 1: all"
    ),
    Variable("TSP_PUSH_TOP", "0", "of the pool, so many least sure tasks get their prediction in Label Studio; 0: all"),
    Variable("TSP_CLUSTERS", "0", "groups of like images that next task goes round; 0: the lowest score comes first"),
    Variable("TSP_IMAGE_HOSTS", "", "hosts of images besides Label Studio, by comma; * in a name: any public host"),
    Variable("TSP_IMAGE_MEGAPIXELS", "64", f"largest image that is read, at most {MOST_MEGAPIXELS}"),
    Variable("TSP_PREDICT_SECONDS", "80", "seconds a /predict may take; tasks not done by then stay open"),
    Variable("TSP_BRUSH_CODEC", "fast", "codec of brush masks: fast, or sdk for the slow one of Label Studio's SDK"),
    Variable("TSP_PRESET", "paper", "settings of the method to start from: " + " or ".join(PRESETS)),
)  # fmt: skip

BRUSH_CODECS = ("fast", "sdk")

# Settings of the service that a project may override (backend.project_settings): kind, lowest and highest value.
OVERRIDABLE: dict[str, tuple[type, float, float]] = {
    "train_after": (int, 0, 10**9),
    "keep_aside": (float, 0, 0.5),
    "show_threshold": (float, 0, 1),
    "show_area": (float, 0, MOST_MEGAPIXELS * 1e6),
    "show_overlap": (float, 0, 1),
    "push_top": (int, 0, 10**9),
    "clusters": (int, 0, 1000),
}


@dataclass(frozen=True)
class ServiceSettings:
    """What the environment says. Paths are absolute; `method` holds the preset with every TSP_<FIELD>
    applied."""

    label_studio_url: str
    label_studio_api_key: str
    model_dir: Path
    own_database_url: str = field(repr=False)
    host: str
    port: int
    web_threads: int
    torch_threads: int
    processes: int
    keep_memory: bool
    basic_auth_user: str
    basic_auth_pass: str
    train_after: int
    look_minutes: float
    keep_aside: float
    keep_versions: int
    keep_jobs: float
    shown: Shown
    push_top: int
    clusters: int
    image_limits: ImageLimits
    predict_seconds: float
    brush_codec: str
    preset: str
    method: Settings

    @property
    def network(self) -> str:
        """What trains where a project does not say otherwise, for people."""
        epochs = "1 epoch" if self.method.epochs == 1 else f"{self.method.epochs} epochs"
        return f"{self.method.backbone} at {self.method.image_size} pixels for {epochs}"

    @property
    def database_url(self) -> str:
        """The job database, as SQLAlchemy names it. On PostgreSQL with a password in it."""
        return self.own_database_url or f"sqlite:///{self.model_dir / 'jobs.sqlite'}"

    @property
    def shared(self) -> bool:
        """Whether several workers may share the jobs."""
        return bool(self.own_database_url)

    @property
    def credentials_digest(self) -> str:
        """Tells these basic-authentication credentials from others without telling them."""
        text = f"{self.label_studio_api_key}/{self.basic_auth_user}:{self.basic_auth_pass}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """(user, password) that callers must send, or None."""
        return (self.basic_auth_user, self.basic_auth_pass) if self.basic_auth_user else None


def documented_variables() -> list[Variable]:
    """Every variable the service reads, TSP_<FIELD> of the method included, for the README's table to be
    checked."""
    taken = {variable.name for variable in VARIABLES}
    method = [
        Variable(
            _variable(one.name),
            one.default if isinstance(one.default, str) else json.dumps(one.default),
            _meaning(one.name, one.metadata["meaning"]),
        )
        for one in fields(Settings)
    ]
    return list(VARIABLES) + [variable for variable in method if variable.name not in taken]


def _variable(name: str) -> str:
    """What a setting is called in the environment."""
    return PREFIX + name.upper()


def _meaning(name: str, meaning: str) -> str:
    return f"{meaning} ({', '.join(CHOICES[name])})" if name in CHOICES else meaning


def load(environ: Mapping[str, str] | None = None) -> ServiceSettings:
    """The settings of this process.

    Args:
        environ: the variables to read; None: those of the process. An empty value counts as absent.
    Raises:
        SettingsError: one line that names the variable, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    text = {variable.name: environ.get(variable.name) or variable.default for variable in VARIABLES}
    _refuse_misspelt(environ)
    overrides = {name: value for name in FIELD_NAMES if (value := environ.get(_variable(name))) not in (None, "")}
    if bool(text["BASIC_AUTH_USER"]) != bool(text["BASIC_AUTH_PASS"]):
        raise SettingsError("BASIC_AUTH_USER and BASIC_AUTH_PASS go together; set both or neither.")
    method = _method(text["TSP_PRESET"], overrides)
    processes = _number("TSP_PROCESSES", text["TSP_PROCESSES"], int, 1, 64)
    require_an_image_each(processes, method)
    return ServiceSettings(
        label_studio_url=address("LABEL_STUDIO_URL", text["LABEL_STUDIO_URL"]),
        label_studio_api_key=text["LABEL_STUDIO_API_KEY"],
        model_dir=Path(text["MODEL_DIR"]).expanduser().absolute(),
        own_database_url=_database(text["TSP_DATABASE_URL"]),
        host=text["HOST"],
        port=_number("PORT", text["PORT"], int, 1, 65535),
        web_threads=_number("WEB_THREADS", text["WEB_THREADS"], int, 8, 256),
        torch_threads=_number("TORCH_THREADS", text["TORCH_THREADS"], int, 1, MOST_THREADS),
        processes=processes,
        keep_memory=_flag("TSP_KEEP_MEMORY", text["TSP_KEEP_MEMORY"]),
        basic_auth_user=text["BASIC_AUTH_USER"],
        basic_auth_pass=text["BASIC_AUTH_PASS"],
        look_minutes=_number("TSP_LOOK_MINUTES", text["TSP_LOOK_MINUTES"], float, 0, 1440),
        keep_versions=_kept(text["TSP_KEEP_VERSIONS"]),
        keep_jobs=_number("TSP_KEEP_JOBS", text["TSP_KEEP_JOBS"], float, 0, 36500),
        image_limits=ImageLimits(
            hosts=_hosts(text["TSP_IMAGE_HOSTS"]),
            megapixels=_number("TSP_IMAGE_MEGAPIXELS", text["TSP_IMAGE_MEGAPIXELS"], float, 0.001, MOST_MEGAPIXELS),
        ),
        predict_seconds=_number("TSP_PREDICT_SECONDS", text["TSP_PREDICT_SECONDS"], float, 1, 3600),
        brush_codec=brush_codec(environ),
        preset=text["TSP_PRESET"],
        method=method,
        **checked({name: text[_variable(name)] for name in OVERRIDABLE}, _variable),
    )


def checked(given: Mapping[str, Any], named: Callable[[str], str]) -> dict[str, Any]:
    """The fields that ServiceSettings and ProjectSettings share, without the method, checked.

    Args:
        given: a value for each of OVERRIDABLE. named: what people call it.
    Raises:
        SettingsError: one line that names the value and what is allowed.
    """
    values = {name: _number(named(name), given[name], *limits) for name, limits in OVERRIDABLE.items()}
    shown = Shown(**{name: values.pop(f"show_{name}") for name in ("threshold", "area", "overlap")})
    return values | {"shown": shown}


def address(name: str, value: str) -> str:
    """The address of a web service, without its last slash.

    Raises SettingsError, which says what was given as `name`, for what is none or holds a password.
    """
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        known = False
    if not known:
        meant = f"http://{value}" if re.match(r"[\w.-]+(:\d+)?(/|$)", value) else "http://host:port"
        raise SettingsError(f"{name}={value!r} is no address; write it as {meant}.")
    if parts.username or parts.password:
        raise SettingsError(f"{name} holds a user or a password, which would stand in every message; take them out.")
    return value.rstrip("/")


def starting(part: str = "", environ: Mapping[str, str] | None = None) -> str:
    """How people start the backend, or a part of it, for a remedy: with another preset it trains another network."""
    preset = (os.environ if environ is None else environ).get("TSP_PRESET")
    command = " ".join(filter(None, [f"TSP_PRESET={preset}" if preset else "", f"{sys.executable} -m backend", part]))
    variables = "the other variables as before" if preset else "the variables as before, such as TSP_PRESET"
    return f"`{command}`, with {variables}"


def brush_codec(environ: Mapping[str, str] | None = None) -> str:
    """TSP_BRUSH_CODEC alone, for who turns masks into regions: scripts do so without a service.

    Arguments and errors as in `load`.
    """
    environ = os.environ if environ is None else environ
    name = environ.get("TSP_BRUSH_CODEC") or BRUSH_CODECS[0]
    if name not in BRUSH_CODECS:
        raise SettingsError(f"TSP_BRUSH_CODEC={name!r} is no codec; use {' or '.join(BRUSH_CODECS)}.")
    return name


def _database(url: str) -> str:
    """Without the value in a complaint, here or later from a library: it has a password in it."""
    plain = r"(?:[^\s@:/?#%]|%[0-9A-Fa-f]{2})+"
    if url and not re.fullmatch(rf"postgres(ql)?://{plain}(:{plain})?@[^\s@/?#]+/[^\s@/]+", url):
        raise SettingsError(
            "TSP_DATABASE_URL is no address of a database; give postgresql://user:password@host/name, with what is "
            "neither letter nor digit in the password percent-encoded."
        )
    return url


def _refuse_misspelt(environ: Mapping[str, str]) -> None:
    """A misspelt TSP_ name would be ignored without a word, and its run measured with the default."""
    known = [variable.name for variable in documented_variables()]
    for name in sorted(environ):
        like = get_close_matches(name, known, 1, cutoff=0.85) if name.startswith(PREFIX) else []
        if like and name not in known:
            raise SettingsError(f"{name} is no setting; did you mean {like[0]}?")


def require_an_image_each(processes: int, method: Settings) -> None:
    """Raises SettingsError if a process would have no image of a batch."""
    if method.batch_size < processes:
        raise SettingsError(
            f"TSP_PROCESSES={processes} would share the {method.batch_size} images of a batch, and some have none; "
            f"raise batch_size (TSP_BATCH_SIZE) to {processes}, or lower TSP_PROCESSES."
        )


def _method(preset: str, overrides: Mapping[str, str]) -> Settings:
    try:
        return Settings.preset(preset).override(dict(overrides))
    except SettingsError as error:
        raise SettingsError(f"TSP_PRESET or a TSP_<FIELD>: {error}") from None


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise SettingsError(f"{name}={value!r} is neither true nor false; give one of them.")
    return value.lower() == "true"


def _number(name: str, value: Any, kind: type, low: float, high: float) -> Any:
    """`value` as `kind`, within [low, high]; NaN fails the comparison and is refused with the rest."""
    try:
        if isinstance(value, bool):
            raise ValueError(value)
        number = kind(value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise SettingsError(f"{name}={value!r} is no {'whole ' if kind is int else ''}number.") from None
    if not low <= number <= high:
        raise SettingsError(f"{name}={value} is out of range; use a value from {low} to {high}.")
    return number


def _kept(value: str) -> int:
    kept = _number("TSP_KEEP_VERSIONS", value, int, 0, 10**9)
    if kept == 1:
        raise SettingsError("TSP_KEEP_VERSIONS=1 leaves nothing to go back to; keep 2 or more, or 0 for all.")
    return kept


def _hosts(value: str) -> tuple[str, ...]:
    hosts = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    if wrong := [name for name in hosts if not re.fullmatch(r"[\w.*:-]+", name) or name.count(":") == 1]:
        raise SettingsError(f"TSP_IMAGE_HOSTS has {wrong[0]!r}, no name of a host; write it as images.example.org.")
    return hosts
