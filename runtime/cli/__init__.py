"""The command `pocketpaw`. Like `daemon.py` it wires the other folders together, and nothing imports it."""

from .commands import commands, main

__all__ = ["commands", "main"]
