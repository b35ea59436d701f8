"""What a request that comes now has to expect: a place, or how long to stay away."""

from __future__ import annotations

import math

from ollmlx.errors import Busy
from ollmlx.settings import RunnerSettings
from ollmlx.supervisor.scheduling.arrivals import Arrivals
from ollmlx.supervisor.scheduling.pool_entry import Place
from ollmlx.supervisor.scheduling.queue import PendingRequests
from ollmlx.supervisor.scheduling.runner_set import RunnerSet

QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's words, both spaces included: clients compare them."""
LOOKED_AT = 8
"""Requests that are let in at once however full the queue is: 20 ms of parsing."""
USUAL_SERVICE = 2.0
"""Seconds a request takes, until one has been measured."""
NEWEST = 0.1
"""Share of the newest request in what one is thought to take, once there are enough of them."""
LONGEST = 300.0
"""Seconds, the most that anybody is told to stay away."""


class Outlook:
    """Reads the queue, those on their way to it, and the fleet; changes nothing."""

    def __init__(
        self, settings: RunnerSettings, room: PendingRequests[Place], arrivals: Arrivals, fleet: RunnerSet
    ) -> None:
        self._settings = settings
        self._room = room
        self._arrivals = arrivals
        self._fleet = fleet
        self._service = USUAL_SERVICE
        self._measured = 0

    def served(self, seconds: float) -> None:
        """A request has held its slot for so long."""
        self._measured += 1
        self._service += max(NEWEST, 1 / self._measured) * (seconds - self._service)

    def roomy(self, model: str) -> bool:
        """Whether one request more for a model may find a slot or a place in the queue beside those on their way in.

        A few are looked at however full the queue is: not all who call a generating route need a runner.
        """
        coming = len(self._arrivals)
        if coming < max(LOOKED_AT, self._settings.max_queue - len(self._room) + self._free()):
            return True
        return self._arrivals.of(model) < self._free(model)

    def queue_full(self) -> Busy:
        """The refusal, with the seconds until the queue as it is should have been served."""
        slots = sum(place.runner.parallel for place in self._fleet.places.values() if place.runner is not None)
        wait = math.ceil(self._service * len(self._room) / max(1, slots))
        return Busy(QUEUE_FULL, retry_after=min(LONGEST, max(1.0, wait)))

    def _free(self, model: str | None = None) -> int:
        """Slots that nobody uses; of one model, by its full name or its short one."""
        return sum(
            place.runner.parallel - place.leases
            for place in self._fleet.places.values()
            if place.runner is not None and place.free and (model is None or place.launch.answers_to(model))
        )
