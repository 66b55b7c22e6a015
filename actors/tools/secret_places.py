"""Where people and programs keep their secrets: nothing that a tool has any business with."""

from __future__ import annotations

import re
from pathlib import PurePath

SECRETS = (
    # keys and credentials
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".oci",
    ".netrc",
    ".pgpass",
    ".my.cnf",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".vault-token",
    ".password-store",
    ".terraform.d",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings.xml",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".config/op",
    ".config/rclone",
    ".config/sops",
    ".local/share/keyrings",
    ".local/share/kwalletd",
    "library/keychains",
    # other agents' credentials
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
    ".local/share/opencode/auth.json",
    # password managers and browsers
    ".config/bitwarden",
    ".config/keepassxc",
    ".mozilla",
    ".thunderbird",
    ".config/google-chrome",
    ".config/chromium",
    ".config/bravesoftware",
    ".config/microsoft-edge",
    ".config/vivaldi",
    ".config/opera",
    "snap/firefox",
    "snap/chromium",
    ".var/app",
    "library/application support/google/chrome",
    "library/application support/firefox",
    # histories
    ".lesshst",
    ".viminfo",
    ".local/share/fish",
)
"""Ends of paths, in lower case, that are kept from everybody, wherever below the root they are."""

HISTORY = re.compile(r"\.\w+[_-]history(-\d+\.tmp)?")

_ENDS = tuple(f"/{secret}" for secret in SECRETS)


def is_secret(path: PurePath) -> bool:
    """Whether `path` is kept from everybody, by its name; what is below it is not looked at."""
    end = "/".join(path.parts).casefold()
    return end.endswith(_ENDS) or HISTORY.fullmatch(path.name.casefold()) is not None
