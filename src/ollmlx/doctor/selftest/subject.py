"""The model under test, as any client of the daemon sees it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from ollmlx.doctor.daemon import Answer, Daemon, Silent
from ollmlx.model.names import ModelName

PATIENCE = 100.0
"""Seconds for one answer; the self-test as a whole has its own deadline."""


class Refused(Exception):
    """The daemon answered with an error, or not at all. `code`: the error's, when it has one."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Piece:
    """One token of an answer; `gap`: by how much (log-probability) the runner-up lost, None when unknown."""

    text: str
    gap: float | None = None


@dataclass(frozen=True)
class Reply:
    """One answer. `prompt` and `cached` count tokens of the prompt."""

    text: str
    pieces: tuple[Piece, ...]
    prompt: int
    cached: int
    reason: str


class Subject:
    """Asks one model. Prompts are continued as they are, without a template."""

    def __init__(self, daemon: Daemon, name: ModelName) -> None:
        self.daemon = daemon
        self.name = name
        self.model = str(name)
        self._known = {self.model.lower()}

    async def ask(self, prompt: str, tokens: int, *, log_probabilities: bool = True, **options: Any) -> Reply:
        """The continuation of a text, `tokens` at the most; greedy unless `options` say otherwise."""
        body = self._generate(prompt, tokens, **options)
        if log_probabilities:
            body |= {"logprobs": True, "top_logprobs": 2}
        told = await self._post("/api/generate", body)
        pieces = tuple(_piece(one) for one in told.get("logprobs") or ())
        return Reply(
            text=str(told.get("response", "")),
            pieces=pieces,
            prompt=int(told.get("prompt_eval_count", 0)),
            cached=int(told.get("prompt_eval_cached_count", 0)),
            reason=str(told.get("done_reason", "")),
        )

    async def stream(self, prompt: str, tokens: int, **options: Any) -> AsyncIterator[str]:
        """The pieces of a continuation as they come; closing the iterator leaves, as a client leaves."""
        body = self._generate(prompt, tokens, **options) | {"stream": True}
        try:
            async with aclosing(self.daemon.lines("/api/generate", body)) as records:  # type: ignore[type-var]
                async for record in records:
                    if "error" in record:
                        raise Refused(str(record["error"]), record.get("code"))
                    yield str(record.get("response", ""))
        except Silent as silence:
            raise Refused(f"the daemon does not answer: {silence.reason}", "NET003") from silence

    async def chat(self, question: str, schema: Mapping[str, Any], tokens: int) -> str:
        """The answer to a question in the form of a schema."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "format": dict(schema),
            "options": {"temperature": 0, "num_predict": tokens},
            "stream": False,
        }
        told = await self._post("/api/chat", body)
        return str(told.get("message", {}).get("content", ""))

    async def load(self) -> None:
        """Have it loaded."""
        await self._post("/api/generate", {"model": self.model, "stream": False})

    async def unload(self) -> None:
        """Have its runner end."""
        await self._post("/api/generate", {"model": self.model, "keep_alive": 0, "stream": False})

    async def details(self) -> dict[str, Any]:
        """What `/api/show` says; and from `/api/tags`, by which other names its runner may go."""
        shown = await self._post("/api/show", {"model": self.model})
        for one in (await self._get("/api/tags")).get("models", ()):
            if str(one["name"]).lower() == self.model.lower():
                self._known |= {str(one["digest"]), str(one["details"]["parent_model"]).lower()}
        return shown

    async def runner(self) -> dict[str, Any] | None:
        """Its runner in `/api/ps`: parallel, active, reserved, measured memory; None while it is not loaded."""
        listed = (await self._get("/api/ps")).get("models", ())
        mine = (one for one in listed if {str(one["name"]).lower(), str(one["digest"])} & self._known)
        return next((dict(one) for one in mine), None)

    def _generate(self, prompt: str, tokens: int, **options: Any) -> dict[str, Any]:
        stated = {"temperature": 0, "num_predict": tokens, "repeat_penalty": 1, **options}
        return {"model": self.model, "prompt": prompt, "raw": True, "options": stated, "stream": False}

    async def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = await self.daemon.get(path)
        except Silent as silence:
            raise Refused(f"the daemon does not answer: {silence.reason}", "NET003") from silence
        return _body(answer)

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = await self.daemon.post(path, body, PATIENCE)
        except Silent as silence:
            raise Refused(f"the daemon does not answer: {silence.reason}", "NET003") from silence
        return _body(answer)


def _body(answer: Answer) -> dict[str, Any]:
    told = answer.body if isinstance(answer.body, dict) else {}
    if answer.status >= 400 or "error" in told:
        raise Refused(str(told.get("error") or f"the daemon answered {answer.status}"), told.get("code"))
    return told


def _piece(told: Mapping[str, Any]) -> Piece:
    chances = sorted((float(one["logprob"]) for one in told.get("top_logprobs", ())), reverse=True)
    return Piece(str(told["token"]), chances[0] - chances[1] if len(chances) > 1 else None)
