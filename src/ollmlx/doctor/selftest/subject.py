"""The model under test, as a client of the daemon sees it, and the comparison of two of its completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ollmlx.doctor.check import found
from ollmlx.doctor.daemon import DaemonClient, DaemonReply, NoReply
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding
from ollmlx.model.names import ModelName

PATIENCE = 100.0
"""Seconds for one request; the self-test as a whole has its own limit."""
TIE = 0.2
"""Two tokens whose log-probabilities differ by less can swap through rounding alone: another batch width, or another
split of the prompt, adds the same numbers in another order. A heuristic; a stale cache changes them far more."""
SHOWN = 60
BUNDLE = "ollmlx doctor --bundle ollmlx-bundle.zip"
ONE_AT_A_TIME = "OLLAMA_NUM_PARALLEL=1 ollmlx serve"


class RequestFailed(OllmlxError):
    """The daemon answered with an error, or not at all."""


@dataclass(frozen=True)
class TokenChoice:
    """One token of a completion. `gap`: its log-probability minus that of the runner-up; None if unknown."""

    text: str
    gap: float | None = None


@dataclass(frozen=True)
class Completion:
    """A completion. `prompt` and `cached` count the tokens of the prompt."""

    text: str
    tokens: tuple[TokenChoice, ...]
    prompt: int
    cached: int


def difference(first: Completion, second: Completion) -> str | None:
    """Describe where two greedy completions differ; None if they are equal, or differ first at a near tie."""
    if first.text == second.text:
        return None
    for index, (one, other) in enumerate(zip_longest(first.tokens, second.tokens)):
        if one is not None and other is not None and one.text == other.text:
            continue
        gaps = [token.gap for token in (one, other) if token is not None and token.gap is not None]
        if gaps and min(gaps) < TIE:
            return None
        shown = [repr(token.text) if token is not None else "the end" for token in (one, other)]
        return f"token {index + 1} is {shown[0]}, then {shown[1]}"
    return f"{first.text[:SHOWN]!r}, then {second.text[:SHOWN]!r}"


class Subject:
    """Sends requests to one model. Prompts are continued as they are, without a template. Raises RequestFailed."""

    def __init__(self, daemon: DaemonClient, name: ModelName) -> None:
        self.daemon = daemon
        self.name = name
        self.model = str(name)
        self._known = {self.model.lower()}
        self.capabilities: tuple[str, ...] = ()

    async def complete(self, prompt: str, tokens: int, *, log_probabilities: bool = True, **options: Any) -> Completion:
        """Return at most `tokens` tokens after a prompt; greedy unless `options` say otherwise."""
        body = self._body(prompt, tokens, **options)
        if log_probabilities:
            body |= {"logprobs": True, "top_logprobs": 2}
        return await self._completed(body)

    async def _completed(self, body: Mapping[str, Any]) -> Completion:
        answer = await self._post("/api/generate", body)
        return Completion(
            text=str(answer.get("response", "")),
            tokens=tuple(_token(one) for one in answer.get("logprobs") or ()),
            prompt=int(answer.get("prompt_eval_count", 0)),
            cached=int(answer.get("prompt_eval_cached_count", 0)),
        )

    async def stream(self, prompt: str, tokens: int, **options: Any) -> AsyncIterator[str]:
        """Yield a completion in pieces. Closing the iterator disconnects, as a client does."""
        body = self._body(prompt, tokens, **options) | {"stream": True}
        try:
            async with aclosing(self.daemon.lines("/api/generate", body)) as records:  # type: ignore[type-var]
                async for record in records:
                    if "error" in record:
                        raise RequestFailed(str(record["error"]), code=record.get("code"))
                    yield str(record.get("response", ""))
        except NoReply as error:
            raise _no_daemon(error) from error

    async def chat(self, question: str, schema: Mapping[str, Any], tokens: int) -> str:
        """Return the answer to a question in the form of a JSON schema."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "format": dict(schema),
            "options": {"temperature": 0, "num_predict": tokens},
            "stream": False,
        }
        answer = await self._post("/api/chat", body)
        return str(answer.get("message", {}).get("content", ""))

    async def perceive(self, file: str, tokens: int) -> Completion:
        """Return the beginning of what the model says to a picture or a sound, in base64."""
        body = self._body("What is this?", tokens) | {"raw": False, "images": [file]}
        return await self._completed(body | {"logprobs": True, "top_logprobs": 2})

    async def transcribe(self, name: str, data: bytes) -> str:
        """Return what the model writes down of an audio file."""
        fields = {"model": self.model}
        reply = await _checked(self.daemon.send("/v1/audio/transcriptions", fields, (name, data), PATIENCE))
        return str(_object(reply).get("text", ""))

    async def speak(self, text: str) -> bytes:
        """Return a text as the model says it, as a WAV file."""
        body = {"model": self.model, "input": text, "response_format": "wav"}
        return (await _checked(self.daemon.post("/v1/audio/speech", body, PATIENCE))).data

    async def load(self) -> None:
        """Load the model."""
        await self._post("/api/generate", {"model": self.model, "stream": False})

    async def unload(self) -> None:
        """Unload the model, which ends its runner."""
        await self._post("/api/generate", {"model": self.model, "keep_alive": 0, "stream": False})

    async def details(self) -> dict[str, Any]:
        """Return `/api/show` of the model; note its capabilities, and its runner's other names from `/api/tags`."""
        shown = await self._post("/api/show", {"model": self.model})
        self.capabilities = tuple(shown.get("capabilities", ()))
        for one in (await self._get("/api/tags")).get("models", ()):
            if str(one["name"]).lower() == self.model.lower():
                self._known |= {str(one["digest"]), str(one["details"]["parent_model"]).lower()}
        return shown

    async def runner(self) -> dict[str, Any] | None:
        """Return the model's entry in `/api/ps`; None while it is not loaded."""
        loaded = (await self._get("/api/ps")).get("models", ())
        own = (one for one in loaded if {str(one["name"]).lower(), str(one["digest"])} & self._known)
        return next((dict(one) for one in own), None)

    def _body(self, prompt: str, tokens: int, **options: Any) -> dict[str, Any]:
        stated = {"temperature": 0, "num_predict": tokens, "repeat_penalty": 1, **options}
        return {"model": self.model, "prompt": prompt, "raw": True, "options": stated, "stream": False}

    async def _get(self, path: str) -> dict[str, Any]:
        return _object(await _checked(self.daemon.get(path)))

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _object(await _checked(self.daemon.post(path, body, PATIENCE)))


def _no_daemon(error: NoReply) -> RequestFailed:
    return RequestFailed(f"the daemon does not answer: {error}", code="NET003")


async def _checked(request: Awaitable[DaemonReply]) -> DaemonReply:
    try:
        reply = await request
    except NoReply as error:
        raise _no_daemon(error) from error
    body = _object(reply)
    if reply.status >= 400 or "error" in body:
        stated = body.get("error")
        fault = stated if isinstance(stated, dict) else {"message": stated, "code": body.get("code")}
        message = str(fault.get("message") or f"the daemon answered {reply.status}")
        raise RequestFailed(message, code=fault.get("code"))
    return reply


def _object(reply: DaemonReply) -> dict[str, Any]:
    return reply.body if isinstance(reply.body, dict) else {}


def _token(record: Mapping[str, Any]) -> TokenChoice:
    values = sorted((float(one["logprob"]) for one in record.get("top_logprobs", ())), reverse=True)
    return TokenChoice(str(record["token"]), values[0] - values[1] if len(values) > 1 else None)


def wrong_answer(subject: Subject, problem: str, evidence: str, *commands: str, code: str = "RUN010") -> Finding:
    """Return a finding about the model, with the command that collects a report for a person who helps."""
    name = subject.name.short
    return found(code, f"{name} {problem}", evidence=(evidence,), commands=(*commands, BUNDLE), subject=name)
