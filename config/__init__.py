"""What the operator sets: the settings as data, the home folder, the access token."""

from .document import UnreadableFileError
from .home import Home, HomeError, access_token, home_path, open_home, regenerate_token
from .load import Loaded, Problem, load
from .save import keep_last_good, save, take_in_secrets
from .setting import Setting, SettingError
from .settings import SETTINGS, Settings, accept, check, is_mask, masked, parse, rows
from .vault import Vault, VaultError

__all__ = [
    "SETTINGS",
    "Home",
    "HomeError",
    "Loaded",
    "Problem",
    "Setting",
    "SettingError",
    "Settings",
    "UnreadableFileError",
    "Vault",
    "VaultError",
    "accept",
    "access_token",
    "check",
    "home_path",
    "is_mask",
    "keep_last_good",
    "load",
    "masked",
    "open_home",
    "parse",
    "regenerate_token",
    "rows",
    "save",
    "take_in_secrets",
]
