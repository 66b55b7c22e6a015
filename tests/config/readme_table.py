"""The README's table of settings, made from the settings: `python tests/config/readme_table.py` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from pocketpaw.config import rows

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    lines = ["| setting | default | unit | what it is |", "|---|---|---|---|"]
    for row in rows():
        default = "" if row.default in ("", None, ()) else f"`{json.dumps(row.default)}`"
        secret = " Secret." if row.secret else ""
        lines.append(f"| `{row.name}` | {default} | {row.unit} | {row.help}{secret} |".replace("|  |", "| |"))
    return "\n".join(lines)


def with_table(text: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
