"""Prometheus's text format (https://prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge"]
Labels = Mapping[str, str]

_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_IN_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def family(name: str, kind: Kind, help_: str, samples: Iterable[tuple[Labels, float]]) -> str:
    """Write one metric with all its samples; nothing if there are none."""
    lines = [f"{name}{_labels(labels)} {_number(value)}\n" for labels, value in samples]
    if not lines:
        return ""
    return f"# HELP {name} {help_.translate(_IN_HELP)}\n# TYPE {name} {kind}\n{''.join(lines)}"


def single(name: str, kind: Kind, help_: str, value: float) -> str:
    """Write a metric that is one number."""
    return family(name, kind, help_, [({}, value)])


def by(label: str, counts: Mapping[str, float]) -> list[tuple[Labels, float]]:
    """The samples of a metric with one label, in the order of its values."""
    return [({label: value}, count) for value, count in sorted(counts.items())]


def _labels(labels: Labels) -> str:
    written = ",".join(f'{name}="{value.translate(_IN_LABEL)}"' for name, value in labels.items())
    return f"{{{written}}}" if written else ""


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(repr(value), repr(value))
