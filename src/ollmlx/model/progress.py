"""How far a long piece of work has come."""

from __future__ import annotations

from ollmlx.model.frozen import Frozen


class PullProgress(Frozen):
    """One step of a pull, a create or a push, with Ollama's status words. `total` and `completed` are bytes."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
