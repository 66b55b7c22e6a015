"""Saving settings to the file, and keeping a copy of its last good state.

Invariant: what could not be read is never written over, and a save that fails leaves config.json as it was.
"""

from collections.abc import Mapping

from .document import Document, UnreadableFileError, read_document, write_document
from .home import Home
from .load import bad_settings
from .settings import check


def save(home: Home, changes: Mapping[str, object]) -> None:
    """Write `changes` to config.json; None takes a setting out of it, back to its default.

    Keys that are no settings are kept. Raises SettingError for an unknown name or a bad value, UnreadableFileError if
    the file is there but cannot be read, and OSError.
    """
    checked = {name: None if value is None else check(name, value) for name, value in changes.items()}
    values = dict(read_document(home.config).values)
    for name, value in checked.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    if not bad_settings(Document(values, "")):
        write_document(home.last_good, values)  # first, so that whoever is told of a failure finds the old settings
    write_document(home.config, values)


def keep_last_good(home: Home) -> bool:
    """Copy config.json to the last good copy if everything in it is right; tell whether it is.

    Run it at every start, so that what was written with an editor is kept too. Raises OSError.
    """
    try:
        document = read_document(home.config)
    except UnreadableFileError:
        return False
    if bad_settings(document):
        return False
    if document.text and document.values != _kept(home):
        write_document(home.last_good, document.values)
    return True


def _kept(home: Home) -> dict[str, object] | None:
    try:
        return read_document(home.last_good).values
    except UnreadableFileError:
        return None
