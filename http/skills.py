"""Skills: what the agent may read up on, from this machine, from git, or uploaded."""

from __future__ import annotations

import msgspec

from ..actors.skills.files import SIZE_LIMIT_BYTES
from ..actors.skills.keeper import (
    InstallSkill,
    InstallUpload,
    ListSkills,
    ReloadSkills,
    RemoveSkill,
    SearchSkills,
    SkillsInstalled,
)
from ..actors.skills.shelf import UPLOAD_PREFIX
from ..actors.skills.sources import CLONE_TIMEOUT_S
from .binding import decode_json, require_json
from .call import Call
from .multipart import is_form, uploaded
from .route import get, post

INSTALL_TIMEOUT_S = 2 * CLONE_TIMEOUT_S + 30.0
"""As another one may be at work, and files are copied."""

_decode = msgspec.json.Decoder(InstallSkill).decode


async def install_skill(call: Call) -> SkillsInstalled:
    """Install the skills of a source, or of a zip that is uploaded as a form's file.

    A source is a folder or a zip on this machine, the https address of a git repository (with `#skill` for one skill of
    several), or `owner/repository[/skill]`. A skill that is there already stays, unless `replace` is true.
    """
    if not is_form(call):
        body = await call.body()
        require_json(call.request.headers.get("Content-Type"), body)
        return await call.ask(decode_json(_decode, body), timeout_s=INSTALL_TIMEOUT_S)
    limit_bytes = min(call.live.current.media_max_file_size_mb * 1_000_000, SIZE_LIMIT_BYTES)
    async with uploaded(call, call.live.home.skills, UPLOAD_PREFIX, limit_bytes=limit_bytes) as upload:
        replace = upload.fields.get("replace", "").lower() in ("true", "1", "on")
        return await call.ask(InstallUpload(name=upload.path.name, replace=replace), timeout_s=INSTALL_TIMEOUT_S)


SCOPE = "skills"
ROUTES = [
    get("/skills", ListSkills, scope=SCOPE),
    get("/skills/search", SearchSkills, scope=SCOPE),
    post("/skills/install", install_skill, scope=SCOPE, described_as=[InstallSkill], takes_upload=True),
    post("/skills/remove", RemoveSkill, scope=SCOPE),
    post("/skills/reload", ReloadSkills, scope=SCOPE),
]
