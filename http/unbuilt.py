"""What the contract names and later work builds: each answers 501, with the scope that it will need.

To build one, delete its line here and declare the endpoint where it belongs.
"""

from __future__ import annotations

from .route import Route, not_built

CONTRACT: tuple[tuple[str, str, str | None], ...] = (
    # Users, agents, models, hooks, vault, pipelines, notifications, voice, skill permissions
    ("POST", "/auth/register", "admin"),
    ("GET", "/auth/me", None),
    ("POST", "/auth/passkey/register", "admin"),
    ("POST", "/auth/passkey/authenticate", "admin"),
    ("POST", "/auth/totp/setup", "admin"),
    ("POST", "/auth/totp/enable", "admin"),
    ("POST", "/auth/totp/disable", "admin"),
    ("POST", "/auth/totp/verify", "admin"),
    ("POST", "/auth/link", "admin"),
    ("GET", "/agents", "chat"),
    ("POST", "/agents", "chat"),
    ("GET", "/agents/{agent_id}", "chat"),
    ("DELETE", "/agents/{agent_id}", "chat"),
    ("POST", "/agents/{agent_id}/message", "chat"),
    ("POST", "/agents/{agent_id}/pause", "chat"),
    ("POST", "/agents/{agent_id}/resume", "chat"),
    ("GET", "/agents/{agent_id}/events", "chat"),
    ("GET", "/models", "settings:read"),
    ("POST", "/models", "settings:write"),
    ("GET", "/models/routing", "settings:read"),
    ("GET", "/models/health", "settings:read"),
    ("GET", "/models/cli/status", "settings:read"),
    ("GET", "/models/cli/quota", "settings:read"),
    ("GET", "/models/providers/ollama/models", "settings:read"),
    ("GET", "/models/providers/litellm/models", "settings:read"),
    ("GET", "/models/providers/{provider}/known", "settings:read"),
    ("POST", "/models/test", "settings:write"),
    ("GET", "/models/{name}", "settings:read"),
    ("PATCH", "/models/{name}", "settings:write"),
    ("DELETE", "/models/{name}", "settings:write"),
    ("POST", "/models/{name}/default", "settings:write"),
    ("GET", "/hooks", "admin"),
    ("POST", "/hooks", "admin"),
    ("GET", "/hooks/{hook_id}", "admin"),
    ("PUT", "/hooks/{hook_id}", "admin"),
    ("DELETE", "/hooks/{hook_id}", "admin"),
    ("POST", "/hooks/{hook_id}/enable", "admin"),
    ("POST", "/hooks/{hook_id}/disable", "admin"),
    ("GET", "/vault", "admin"),
    ("POST", "/vault", "admin"),
    ("PATCH", "/vault/{entry_id}", "admin"),
    ("DELETE", "/vault/{entry_id}", "admin"),
    ("POST", "/vault/{entry_id}/rotate", "admin"),
    ("GET", "/pipelines", "chat"),
    ("GET", "/pipelines/templates", "chat"),
    ("POST", "/pipelines/templates", "chat"),
    ("PUT", "/pipelines/templates/{template_id}", "chat"),
    ("DELETE", "/pipelines/templates/{template_id}", "chat"),
    ("GET", "/pipelines/{pipeline_id}", "chat"),
    ("POST", "/pipelines/{pipeline_id}/stop", "chat"),
    ("GET", "/notifications", "reminders"),
    ("POST", "/notifications/read-all", "reminders"),
    ("POST", "/notifications/{notification_id}/read", "reminders"),
    ("POST", "/voice/transcribe", "chat"),
    ("GET", "/skills/tools/all", "skills"),
    ("GET", "/skills/permissions", "skills"),
    ("PUT", "/skills/permissions", "skills"),
    ("DELETE", "/skills/permissions/{skill_id}/{action}", "skills"),
    ("GET", "/skills/{skill_id}", "skills"),
    ("POST", "/skills/{skill_id}/tools/{tool_name}/execute", "skills"),
)

ROUTES: list[Route] = [not_built(method, path, scope) for method, path, scope in CONTRACT] + [
    not_built("GET", "/oauth/callback", None, is_exempt=True, at_root=True),
]
