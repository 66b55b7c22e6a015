"""Figures: of the machine, of what models took, and all of them for Prometheus."""

from __future__ import annotations

from quart import Response

from ..actors.metrics.exposition import CONTENT_TYPE, family
from ..actors.metrics.metrics import GetSystemMetrics, ScrapeMetrics
from ..storage.usage import GetUsage, ListRecentUsage, ResetUsage
from .call import Call
from .health import daemon_version
from .route import delete, get
from .traffic import Answered, GetTraffic


async def scrape(call: Call) -> Response:
    """Read all figures in Prometheus's text format."""
    answered = await call.ask(GetTraffic())
    scraped = await call.ask(ScrapeMetrics())
    return Response(f"{_of_http(answered)}{scraped.text}", 200, {"Content-Type": CONTENT_TYPE})


def _of_http(answered: list[Answered]) -> str:
    requests = [({"method": one.method, "route": one.route, "status": str(one.status)}, one.count) for one in answered]
    version = [({"version": daemon_version()}, 1)]
    return family("pocketpaw_info", "gauge", "Which version runs; the number says nothing.", version) + family(
        "pocketpaw_http_requests_total", "counter", "Answered requests by endpoint and status.", requests
    )


SCOPE = "metrics"
ROUTES = [
    get("/metrics/system", GetSystemMetrics, scope=SCOPE),
    get("/metrics/usage", GetUsage, scope=SCOPE),
    delete("/metrics/usage", ResetUsage, scope="admin"),
    get("/metrics/usage/recent", ListRecentUsage, scope=SCOPE),
    get("/metrics", scrape, scope=SCOPE, at_root=True, produces="text/plain"),
]
