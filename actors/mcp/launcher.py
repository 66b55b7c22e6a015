"""Becomes the MCP server that its command line names, and leaves a process behind that ends it with the daemon.

    python -I -S launcher.py LIFELINE COMMAND [ARGUMENT …]

LIFELINE is the read end of a pipe of which the daemon alone holds the other end. When that closes, be it by SIGKILL,
the process left behind kills the process group: the server, itself, and whatever the server has started. It is nobody's
child, so that a server that waits for its children does not find one that it never had. It needs 1 MB.
"""

import os
import signal
import sys


def main() -> None:
    lifeline, command = int(sys.argv[1]), sys.argv[2:]
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # or the guard would kill whoever started us
    if os.fork() == 0:
        if os.fork() == 0:
            _guard(lifeline)
        os._exit(0)
    os.wait()
    os.close(lifeline)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606 it is what the operator configured


def _guard(lifeline: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(lifeline, 0)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.closerange(3, max(lifeline, nothing) + 1)
    os.execv("/bin/sh", ["sh", "-c", "read _; kill -9 0"])  # noqa: S606


if __name__ == "__main__":
    main()
