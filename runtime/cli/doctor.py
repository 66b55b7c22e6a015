"""What `pocketpaw doctor` looks at: each check looks, changes nothing, and gives what it found."""

from __future__ import annotations

import errno
import socket
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Literal

import msgspec

from ...config import Home, HomeError, Loaded, access_token, open_home
from ...config.load import SEALED_DATABASE
from .client import Client, DaemonHealth
from .failure import Failure

DATABASE_BUSY_S = 5.0
SECURITY_S = 330.0

_PORT_PROBLEMS = {
    errno.EADDRINUSE: "is in use by another program",
    errno.EACCES: "may only be opened with more privileges",
    errno.EADDRNOTAVAIL: "cannot be opened, as this machine has no such address",
}
_OWN_VARIABLES = {"POCKETPAW_URL", "POCKETPAW_TOKEN"}
"""Read by the commands; no settings."""


class Finding(msgspec.Struct, frozen=True):
    """What one check found; `fix_hint` says what to do about what is not ok."""

    check: str
    status: Literal["ok", "warning", "broken"]
    message: str
    fix_hint: str = ""


def check_home(root: Path) -> Finding:
    if not root.exists():
        return Finding("home", "ok", f"{root} is not there yet; the first start makes it")
    try:
        open_home(root)
    except HomeError as error:
        return Finding("home", "broken", str(error))
    return Finding("home", "ok", f"{root} can be written")


def check_token(home: Home) -> Finding:
    if not home.access_token.exists():
        return Finding("token", "ok", "there is none yet; the first start makes it")
    try:
        access_token(home)
    except HomeError as error:
        return Finding("token", "broken", str(error))
    return Finding("token", "ok", f"{home.access_token} can be read by its owner only")


def check_settings(loaded: Loaded) -> Generator[Finding]:
    for problem in loaded.problems:
        yield Finding("settings", "warning", problem.message, problem.fix_hint)
    for name in loaded.unknown_variables:
        if name not in _OWN_VARIABLES:
            yield Finding("settings", "warning", f"{name} is no setting", "Look for a typing mistake in its name.")
    if not loaded.problems:
        changed = ", ".join(loaded.settings.changed()) or "none, all defaults"
        yield Finding("settings", "ok", f"all can be used; set: {changed}")


def check_database(url: str) -> Finding:
    """Look at the database without making, migrating or repairing anything."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError

    if url == SEALED_DATABASE:
        text = "its address is in the vault, which cannot be opened"
        return Finding("database", "broken", text, "Mend the vault, or set database_url anew.")
    address = make_url(url)
    shown = address.render_as_string(hide_password=True)
    if address.get_backend_name() == "sqlite":
        return _check_sqlite(Path(address.database or ""))
    try:
        engine = create_engine(address)
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        return Finding(
            "database", "broken", f"{shown} cannot be reached: {reason}", "Start it, or correct database_url."
        )
    return Finding("database", "ok", f"{shown} answers")


def _check_sqlite(path: Path) -> Finding:
    was_made = path.with_name(f"{path.name}.made").exists()  # see storage/sqlite_file.py
    if not path.exists() or (path.stat().st_size == 0 and not was_made):
        return Finding("database", "ok", f"{path} is not made yet; the first start does that")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=DATABASE_BUSY_S)) as file:
            (verdict,) = file.execute("PRAGMA quick_check(1)").fetchone()
            has_tables = file.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] > 0
    except sqlite3.Error as error:
        verdict, has_tables = str(error), True
    if verdict == "ok" and has_tables:
        return Finding("database", "ok", f"{path} is sound")
    reason = "it is empty, but held data before" if verdict == "ok" else verdict
    hint = (
        f"Move {path} away and put the latest of its .backup-… files in its place, or start without: it is made anew."
    )
    return Finding("database", "broken", f"{path} is damaged: {reason}", hint)


def check_port(host: str, port: int) -> Finding:
    problem = port_problem(host, port)
    if problem is None:
        return Finding("port", "ok", f"port {port} on {host} is free" if port else f"any free port on {host} is taken")
    return Finding("port", "broken", problem, "Stop what has it, or set web_port or web_host.")


def port_problem(host: str, port: int) -> str | None:
    """Say why the daemon could not listen there; None if it could."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in addresses:
            with socket.socket(family, kind, protocol) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended do not count
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
    except OSError as error:
        problem = _PORT_PROBLEMS.get(error.errno or 0, f"cannot be opened: {error.strerror or error}")
        return f"port {port} on {host} {problem}"
    return None


def check_daemon(client: Client) -> Generator[Finding]:
    """Ask a running daemon how it is."""
    try:
        health = client.get("/health", DaemonHealth)
    except Failure as failure:
        hint = "See what it logs; if it does not recover, restart it."
        yield Finding("daemon", "broken", failure.message, hint)
        return
    yield Finding("daemon", "ok", f"it answers at {client.url} and is {health.status}")
    for issue in health.issues:
        status = "broken" if issue.status == "critical" else "warning"
        yield Finding(issue.name, status, issue.message, issue.fix_hint)
    yield from _check_security(client)


class _SecurityResult(msgspec.Struct, frozen=True):
    check: str
    passed: bool
    message: str
    fixable: bool


class _SecurityReport(msgspec.Struct, frozen=True):
    results: list[_SecurityResult]


def _check_security(client: Client) -> Generator[Finding]:
    """Have the daemon look at its own security."""
    try:
        report = client.post("/security-audit", _SecurityReport, answer_s=SECURITY_S)
    except Failure as failure:
        yield Finding("security", "warning", f"it could not be looked at: {failure.message}")
        return
    found = [result for result in report.results if not result.passed]
    for result in found:
        hint = 'POST security-audit with {"fix": true} mends it.' if result.fixable else ""
        yield Finding("security", "warning", f"{result.check}: {result.message}", hint)
    if not found:
        yield Finding("security", "ok", f"all {len(report.results)} checks passed")
