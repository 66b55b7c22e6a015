"""cloudflared as a process: a group of its own, of which on no way out anything is left, nor a zombie."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ...config import Settings
from ...runtime.errors import NeedsOperator, TransientFailure
from ..mcp import launcher

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Nothing of ours, and none of the TUNNEL_… variables, which would make it another tunnel."""
TOKEN = "TUNNEL_TOKEN"  # noqa: S105 the name of cloudflared's variable: in its arguments every user could read it

# https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/configure-tunnels/run-parameters/
# The empty configuration stands for the user's own, which is of other tunnels, and may silence the log that is read.
OPTIONS = (
    *("--config", os.devnull),
    "--no-autoupdate",
    *("--loglevel", "info"),
    *("--metrics", "127.0.0.1:0"),
    *("--grace-period", "1s"),
)

HOW_TO_GET_IT = (
    "install cloudflared (https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/"
    "downloads/), or set cloudflared_path to where it is"
)


def find_program(configured: str) -> str:
    """Where cloudflared is.

    Raises:
        NeedsOperator: it is not there; the text says how to get it.
    """
    path = shutil.which(Path(configured).expanduser() if configured else "cloudflared")
    if path is None:
        place = f"at {configured}" if configured else "on the PATH"
        raise NeedsOperator(f"there is no cloudflared {place}: {HOW_TO_GET_IT}")
    return str(Path(path).absolute())


def check_own_tunnel(settings: Settings) -> None:
    """Raises NeedsOperator if of a tunnel of the operator's own only the token or only the address is set."""
    if bool(settings.cloudflared_token) != bool(settings.cloudflared_url):
        raise NeedsOperator("cloudflared_token and cloudflared_url are both set or both empty: set the missing one")


@asynccontextmanager
async def run_cloudflared(program: str, url: str, token: str = "") -> AsyncGenerator[trio.Process]:
    """Run it for the block; all that it prints comes through its stdout.

    Without a token it makes a new tunnel that leads to `url`; with one it runs the tunnel that the token is of, which
    leads to where Cloudflare was told. The block is left when the process has been reaped, however long that takes:
    until then the tunnel may be open.

    Raises:
        TransientFailure: it could not be started.
    """
    read_end, lifeline = os.pipe()
    command = [program, "tunnel", *OPTIONS, *(["run"] if token else ["--url", url])]
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    try:
        try:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-I", "-S", launcher.__file__, str(read_end), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(read_end,),
                env={**environment, TOKEN: token} if token else environment,
            )
        except OSError as error:
            raise TransientFailure(f"cloudflared could not be started: {error.strerror}") from error
        finally:
            os.close(read_end)
        try:
            yield process
        finally:
            await _end(process)
    finally:
        os.close(lifeline)


async def _end(process: trio.Process) -> None:
    """Kill the group, whose number is its own for as long as the lifeline is open (see `launcher`), and reap it."""
    assert process.stdout is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing of the group is left
    with trio.CancelScope(shield=True):
        await process.wait()
        await trio.aclose_forcefully(process.stdout)


def obituary(process: trio.Process, last_words: str) -> str:
    """How a process has ended, as a sentence."""
    status = process.returncode
    assert status is not None
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    return f"cloudflared {how}: {last_words}" if last_words else f"cloudflared {how}"
