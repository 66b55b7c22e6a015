"""What is read in cloudflared's log, however it comes."""

from __future__ import annotations

import pytest
from pocketpaw.actors.tunnel.output import LINE_LIMIT_BYTES, Output

LOG = b"""\
2026-08-20T08:32:54Z INF Thank you for trying Cloudflare Tunnel. See https://developers.cloudflare.com/
2026-08-20T08:32:54Z INF Requesting new quick Tunnel on trycloudflare.com...
2026-08-20T08:32:58Z INF +--------------------------------------------------------------------------------------------+
2026-08-20T08:32:58Z INF |  Your quick Tunnel has been created! Visit it at (it may take some time to be reachable):  |
2026-08-20T08:32:58Z INF |  https://oklahoma-solo-younger-truck.trycloudflare.com                                     |
2026-08-20T08:32:58Z INF +--------------------------------------------------------------------------------------------+
2026-08-20T08:32:58Z INF Settings: map[metrics:127.0.0.1:0 url:http://127.0.0.1:8888]
2026-08-20T08:32:58Z INF Starting metrics server on 127.0.0.1:43211/metrics
"""


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_address_and_port_are_found_in_whatever_pieces_they_come(size: int) -> None:
    output = Output()
    for start in range(0, len(LOG), size):
        output.feed(LOG[start : start + size])
    assert output.url == "https://oklahoma-solo-younger-truck.trycloudflare.com"
    assert output.metrics_port == 43211
    assert output.last_words == "Starting metrics server on 127.0.0.1:43211/metrics"


def test_the_address_of_who_gives_out_addresses_is_none() -> None:
    output = Output()
    output.feed(b'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": no such host\n')
    assert output.url is None
    assert output.last_words.startswith("failed to request quick Tunnel")


def test_a_line_without_end_is_not_kept_and_what_follows_is_read() -> None:
    output = Output()
    for _ in range(1000):
        output.feed(b"x" * 10_000)
    assert len(output.last_words) <= 300
    assert sum(len(value) for value in vars(output).values() if isinstance(value, bytes)) <= LINE_LIMIT_BYTES
    output.feed(b"\n" + LOG)
    assert output.metrics_port == 43211
