"""Label Studio's webhooks send no basic authentication of their own.

Connecting a backend makes a webhook without headers: health, setup, predict and START_TRAINING carry the connection's
user and password, annotation events and imports do not and would get 401. So the service writes the header there.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from backend.connection import call

if TYPE_CHECKING:
    from label_studio_sdk import LabelStudio


def webhook_address(backend_url: str) -> str:
    """Where the backend at `backend_url` takes webhooks."""
    return f"{backend_url.rstrip('/')}/webhook"


def webhooks_of(client: LabelStudio, project_id: int, backend_url: str) -> list[dict[str, Any]]:
    """The project's webhooks to the backend at `backend_url`, oldest first."""
    hooks = call(client, "GET", "api/webhooks/", params={"project": project_id})
    ours = [hook for hook in hooks if hook["url"] == webhook_address(backend_url)]
    return sorted(ours, key=lambda hook: hook["id"])


def authorise(client: LabelStudio, project_id: int, backend_url: str, user: str, password: str) -> bool:
    """Let the project's webhooks to `backend_url` send user and password; others are not touched.

    Returns: whether there is such a webhook.
    Raises:
        ProjectError: Label Studio cannot be reached or refuses.
    """
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    header = {"Authorization": f"Basic {token}"}
    ours = webhooks_of(client, project_id, backend_url)
    for hook in ours:
        if header.items() - (hook.get("headers") or {}).items():
            headers = {**(hook.get("headers") or {}), **header}
            # Without its actions a PATCH would clear them.
            values = {"headers": headers, "actions": hook["actions"]}
            call(client, "PATCH", f"api/webhooks/{hook['id']}/", json=values)
    return bool(ours)
