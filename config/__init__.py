"""What the operator sets: the settings as data, the home folder, the access token."""

from .document import UnreadableFileError
from .home import Home, HomeError, access_token, home_path, open_home, regenerate_token
from .load import Loaded, Problem, load
from .save import keep_last_good, save
from .setting import Setting, SettingError
from .settings import SETTINGS, Settings, accept, check, is_mask, masked, parse, rows

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
]
