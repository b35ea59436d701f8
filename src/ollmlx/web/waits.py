"""The wait of each request, as the pool tells it: also of requests that generate nothing."""

from __future__ import annotations

from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.types import Admitted
from ollmlx.web.context import CURRENT


class Waits(PoolObserver):
    """Subscriber of the pool, which calls it in the task of the request. The first wait counts: a retry is no other."""

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        exchange = CURRENT.get()
        if exchange is not None and not exchange.over and exchange.admitted is None:
            queued = max(0.0, waited - loading)
            exchange.admitted = Admitted(queue_ns=int(queued * 1e9), load_ns=int(loading * 1e9))
