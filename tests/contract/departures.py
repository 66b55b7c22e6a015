"""Where our answers are not as PocketPaw 0.4.18's were recorded, and why; any other difference fails the test.

Each is what `shapes.differences` says, as a pattern; one that no longer differs fails the test too.
"""

from __future__ import annotations

from collections.abc import Mapping

CONTRACT = "the contract writes this answer otherwise"
NULL = "it never said anything but null"

SELF_AUDIT = {".total_checks: is missing": CONTRACT, ".results: is missing": CONTRACT}

DEPARTURES: Mapping[str, Mapping[str, str]] = {
    "GET /api/v1/audit": {"[[]].severity: is missing": CONTRACT, "[[]].target: is missing": CONTRACT},
    "GET /api/v1/channels/status": {
        ".discord.*: is missing": "settings of its Discord bot; the contract has how a channel is, and no settings",
    },
    "GET /api/v1/kits/{}": {".kit.config.layout.*: string is null": "null where there is none"},
    "GET /api/v1/self-audit/reports/{}": SELF_AUDIT,
    "POST /api/v1/self-audit/run": SELF_AUDIT,
    "DELETE /api/v1/auth/api-keys/{}": {".status: is missing": CONTRACT},
    "GET /api/v1/health": {".message: is missing": NULL, ".error: is missing": NULL},
    "POST /api/v1/health/check": {".message: is missing": NULL},
    "GET /api/v1/memory/stats": {
        ".by_type: is missing": CONTRACT,
        ".vector_*: is missing": "there are no vectors; the contract has no such figures",
        ".graph_*: is missing": "there is no graph; the contract has no such figures",
    },
    "POST /api/v1/memory/settings": {".status: is missing": "the contract has one row: it answers as GET does"},
    "GET /api/v1/metrics/system": {".error: is missing": "recorded where psutil was missing; it is never missing here"},
    "GET /api/v1/metrics/usage": {
        ".total_*_tokens: is missing": CONTRACT,
        ".total_cost_usd: is missing": CONTRACT,
        ".request_count: is missing": CONTRACT,
    },
    "GET /api/v1/runtime/tree": {
        ".mailbox: is missing": "the root is a supervisor, which has none",
        ".processed: is missing": "as above",
    },
    "GET /api/v1/settings": {".*: is missing": "settings of parts that this daemon does not have"},
    "GET /api/v1/skills/search": {".error: is missing": "recorded without a network, which is not needed here"},
}
