"""What one round measures of one server."""

from __future__ import annotations

import msgspec


class Figures(msgspec.Struct, kw_only=True):
    idle_mb: float
    chats_per_s: float
    """At concurrency 8."""
    loaded_mb: float
    """After the chats."""
    chats: int = 0
    """How many these were."""
    overhead_ms: float = 0.0
    """Of a blocking chat over asking the model directly."""
    starts_s: list[float] = msgspec.field(default_factory=list[float])
    """From its start to the first 200 of GET /health."""
    gets_per_s: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    unanswered: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    """Endpoints that answered with another status than 200."""
    foreign_percent: float = 0.0
    """Of one core, used by others in the worst part of the round."""
    calibration_ms: list[float] = msgspec.field(default_factory=list[float])
    """How long a fixed piece of work took meanwhile: figures of a slow and of a fast time cannot be compared."""
