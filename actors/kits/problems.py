"""What health asks of the kits. Alone in its module, as the rest of them asks health."""

from __future__ import annotations

from ...runtime import Message


class GetKitProblems(Message[list[str]], to="kits"):
    """What is wrong with the installed kits."""
