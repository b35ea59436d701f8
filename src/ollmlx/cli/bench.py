"""`ollmlx bench`: measure a model on this machine, alone or beside another server."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence

from ollmlx.bench.agreement import SharedBeginning, agreement, sentence, summary
from ollmlx.bench.measure import Measurement, MeasurementPlan, Target, measure, resident, rows
from ollmlx.cli.client import Client, Json
from ollmlx.cli.connection import connect, ensure_daemon
from ollmlx.cli.formatting import table
from ollmlx.cli.run import show_or_pull
from ollmlx.cli.terminal import note, say, width
from ollmlx.errors import InvalidRequest, NotFound, UpstreamError
from ollmlx.text.addresses import Address

DESCRIPTION = """Measure a model as its clients see it: load time, memory, time to the first token (for a new prompt and
in the next turn), and tokens a second with several streams. Figures are medians.

  ollmlx bench MODEL --against http://127.0.0.1:8080    also measure an OpenAI-compatible server, by turns;
                                                        --against-pid PID adds the memory of its process
  ollmlx bench MODEL --against-backend llamacpp         measure the same weights on two backends, and compare their
                                                        answers: MODEL, and the model that it was imported from or
                                                        that was imported from it"""


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.add_argument("model", metavar="MODEL", nargs="?", help="default: the newest model")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--against", metavar="URL", help="an OpenAI-compatible server (Ollama is one) to measure, too")
    other.add_argument("--against-backend", metavar="NAME", help="another backend to measure in the same run")
    parser.add_argument(
        "--against-model", metavar="NAME", help="the model's name there (default: the first one listed)"
    )
    parser.add_argument("--against-pid", metavar="PID", type=_positive, help="its process, whose memory is measured")
    parser.add_argument("--streams", metavar="N,N", type=_numbers, default=(1, 4, 8, 16), help="default: 1,4,8,16")
    parser.add_argument("--tokens", metavar="N", type=_positive, default=64, help="length of an answer (default: 64)")
    parser.add_argument("--prompt-tokens", metavar="N", type=_positive, default=600, help="length of the long prompt")
    parser.add_argument("--rounds", metavar="N", type=_positive, default=3, help="number of measurements (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")


async def run_bench(args: argparse.Namespace) -> int:
    client = connect(args)
    ensure_daemon(client, args)
    model = args.model or _newest(client)
    show_or_pull(client, model)
    targets = _targets(client, model, args)
    loads = _loads(client, targets if args.against_backend else targets[:1])
    plan = MeasurementPlan(args.streams, args.tokens, args.prompt_tokens, args.rounds, seed=secrets.randbelow(10**6))
    measured = await measure(targets, plan, note)
    for one, load in zip(measured, loads, strict=False):
        one.load, one.memory = load, memory_of(client, one.target.model, one.target.options.get("backend"))
    if args.against_pid:
        measured[-1].memory = resident(args.against_pid)
    same = await agreement(targets[0], targets[1], note) if args.against_backend else ()
    _print(measured, same, plan, as_json=args.json)
    return 0


def _loads(client: Client, targets: Sequence[Target]) -> list[float]:
    """Return the seconds to load each target. Raises NotFound if a backend has no model with these weights."""
    try:
        return [reload_seconds(client, one.model, one.options) for one in targets]
    except InvalidRequest as error:
        model, backend = targets[0].model, targets[-1].label
        if error.code != "MDL005" or len({one.model for one in targets}) == len(targets):
            raise
        raise NotFound(
            f"no model here has the weights of {model} for the backend {backend!r}",
            hint=f"create one from the GGUF file with ollmlx create NAME -f Modelfile --backend {backend},"
            " or name one with --against-model NAME",
        ) from error


def reload_seconds(client: Client, model: str, options: Json) -> float:
    """Unload a model, load it again, and return the seconds that loading took."""
    client.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    wanted = {**options, "num_predict": 1}
    final = client.post("/api/generate", {"model": model, "prompt": "Hi", "stream": False, "options": wanted})
    return float(final["load_duration"]) / 1e9


def memory_of(client: Client, model: str, backend: str | None = None) -> int | None:
    """Return the bytes of a loaded model. `backend`: which one is meant if the model is loaded on two backends."""
    name = model if ":" in model else f"{model}:latest"
    loaded = [one for one in client.get("/api/ps")["models"] if one["name"].lower() == name.lower()]
    return next((int(one["size"]) for one in loaded if backend in (None, one.get("backend"))), None)


def same_weights(client: Client, model: str, backend: str) -> str:
    """Return the model with the same weights on a backend.

    It is the one that `model` was imported from, one that was imported from it, or `model` itself.
    """
    parent = client.post("/api/show", {"model": model})["details"].get("parent_model")
    name = model if ":" in model else f"{model}:latest"
    children = [one["name"] for one in client.get("/api/tags")["models"] if one["details"]["parent_model"] == name]
    for candidate in (parent, *children):
        if candidate and _runs_on(client, candidate, backend):
            return str(candidate)
    return model


def _runs_on(client: Client, model: str, backend: str) -> bool:
    try:
        return bool(client.post("/api/show", {"model": model}).get("backend") == backend)
    except NotFound:  # a parent that was removed
        return False


def _targets(client: Client, model: str, args: argparse.Namespace) -> list[Target]:
    here = client.address.url
    if args.against_backend:
        own = client.post("/api/show", {"model": model}).get("backend") or "ollmlx"
        other = args.against_model or same_weights(client, model, args.against_backend)
        options = {"backend": args.against_backend}
        return [
            Target(own, here, model, "ollama", client.key),
            Target(args.against_backend, here, other, "ollama", client.key, options),
        ]
    if not args.against:
        return [Target("ollmlx", here, model, "ollama", client.key)]
    ours = Target("ollmlx", f"{here}/v1", model, "openai", client.key)
    url = args.against.rstrip("/")
    url = url if url.endswith("/v1") else f"{url}/v1"
    return [ours, Target(args.against, url, args.against_model or _first_model(url), "openai")]


def _first_model(url: str) -> str:
    models = Client(Address.parse(url)).get("/models")["data"]
    if not models:
        raise UpstreamError(f"{url} lists no models", hint="--against-model NAME")
    return str(models[0]["id"])


def _newest(client: Client) -> str:
    models = client.get("/api/tags")["models"]
    if not models:
        raise NotFound("there is no model to measure", hint="ollmlx bench smollm2:135m")
    return str(models[0]["name"])


def _print(
    measured: list[Measurement], same: Sequence[SharedBeginning], plan: MeasurementPlan, *, as_json: bool
) -> None:
    if as_json:
        result = {"rounds": plan.rounds, "tokens": plan.tokens, "servers": [one.summary() for one in measured]}
        say(json.dumps({**result, "agreement": summary(same)} if same else result, indent=2))
    else:
        say(table(*rows(measured), width(sys.stdout)))
        if same:
            say(f"\n{sentence(same)}")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part.strip()) for part in text.split(","))
