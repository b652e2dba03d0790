"""The plain HTTP port for probes and Prometheus: /healthz, /readyz, /metrics. Read-only.

Every replica is ready as soon as it is able to take over, leader or not: a standby that called itself unready would
block rolling updates (the new pod waits for the Lease, the old one for the new pod to be ready) and confuse disruption
budgets. Nothing is lost by that, since a standby answers reports with 503 and workers send complete reports every few
seconds anyway.
"""

from collections.abc import Callable

from aiohttp import web

from trainwright.metrics import Metrics

Check = Callable[[], str | None]
"""Returns the reason if the check fails, else None."""


def health_app(metrics: Metrics, healthy: Check, ready: Check) -> web.Application:
    """Return the web application."""

    async def healthz(_: web.Request) -> web.Response:
        return _answer(healthy())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(ready())

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    return app


def _answer(problem: str | None) -> web.Response:
    return web.Response(status=200 if problem is None else 500, text=f"{problem or 'ok'}\n")
