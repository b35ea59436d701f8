"""Requests made from `/openapi.json`, as it allows and as it does not, sent to a live daemon with fake models.

    python -m tests.fuzz.campaign [--cases 10000] [--seed 1]

An answer must have a status and a body that the description names, and no 5xx is ever right.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema_rs
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.fuzz.agent_fields import agent_fields

from ollmlx.testing.daemon import Daemon

MODELS = ("parrot", "thinker")
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
Operation = APIOperation[Any, Any, Any, Any]
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
LONGEST_STREAM = 1_000_000
"""Events that are read at most. Left to itself, schemathesis leaves a stream early and takes that for its end."""
MODEL_FIELDS = ("model", "name", "source", "from")
ATTACKS = (
    *("\x1b]52;c;cm0gLXJm\x07", "\u202egnp.exe", "x\r\n09:00:00 INFO forged", "../" * 40, "sha256:../../etc/passwd"),
    *("{{" * 3000, "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "(a+)+$" * 20),
    *("http://169.254.169.254/latest/meta-data", "localhost:1/a/b", "<tool_call>" * 400, "[" * 5000, "a" * 100_000),
    *('{"a":' * 500, "\0", "hf.co/" * 50, "__import__('os').system('id')", "data:image/png;base64,AAAA"),
)
"""Texts of the attacks in `tests/attacks`: control characters, paths, templates, patterns, addresses."""
REFUSED = ("previous_response_id", "conversation", "background", "echo")
"""Fields that are known and answered 400, whatever else a request says."""


@dataclass
class Report:
    """The number of requests and streams, the statuses, and the failures."""

    statuses: Counter[int] = field(default_factory=Counter)
    streams: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.statuses.values())


def campaign(url: str, cases: int, seed: int) -> Report:
    """About `cases` requests, in equal shares over the operations and over right and wrong data."""
    report = Report()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.max_stream_events = LONGEST_STREAM
    operations: list[Operation] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found.err()
        operations.append(found.ok())
    varied = [one for one in operations if one.body or one.path_parameters]
    for one in operations:
        if one not in varied:
            _share(one, GenerationMode.POSITIVE, 1, seed, report)
    for index, one in enumerate(varied):
        left = (cases - report.cases) // (len(varied) - index)
        _share(one, GenerationMode.POSITIVE, left * 2 // 3, seed, report)
        _share(one, GenerationMode.NEGATIVE, left // 3, seed, report)
    return report


def _share(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, cases: int, seed: int, report: Report
) -> None:
    """One operation's part. Its first fault, made as small as it gets, is reported, and ends it."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(cases, 1),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=mode),
        model=st.sampled_from((*MODELS * 2, "", None)),
        streams=st.booleans(),
        attack=st.sampled_from(("", "", *ATTACKS)),
        place=st.integers(0, 30),
        stated=agent_fields(operation.path),
    )
    def run(case: Case[Any], model: str | None, streams: bool, attack: str, place: int, stated: dict[str, Any]) -> None:
        if attack:
            _put(attack, case.body, place)
        _aim(case, model)
        if isinstance(case.body, dict):
            case.body.update(stated)
        if streams and isinstance(case.body, dict) and (stated or "stream" in case.body):
            case.body["stream"] = True
        response = case.call(timeout=120)
        report.statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)
        for fault in _stream_faults(case, response):
            report.streams += 1
            assert not fault, f"{fault}\n{case.as_curl_command()}"

    try:
        run()
    except Unsatisfiable:
        return  # nothing can be wrong with a request that has no part to vary
    except (Exception, FailureGroup) as error:  # noqa: BLE001 - whatever it is, it is what the campaign is for
        report.failures.append(f"{operation.label} ({mode.value}): {error}")


def _put(attack: str, body: Any, place: int) -> None:
    """Write an attack into one of the texts of a body."""
    places: list[tuple[Any, Any]] = []
    left = [body]
    while left:
        value = left.pop()
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in entries:
            if isinstance(item, str):
                places.append((value, key))
            left.append(item)
    if places:
        holder, key = places[place % len(places)]
        holder[key] = attack


def _aim(case: Case[Any], model: str | None) -> None:
    """Most requests are about a model that is there: otherwise nearly all would end as 404."""
    if isinstance(case.body, dict) and model is not None:
        for name in REFUSED:
            case.body.pop(name, None)
        for name in MODEL_FIELDS:
            if name in case.body or name == "model":
                case.body[name] = model
    if "name" in case.path_parameters and model:
        case.path_parameters["name"] = model


def _stream_faults(case: Case[Any], response: Response) -> Iterator[str]:
    """Return the fault of a stream, or an empty text when there is none or the answer is no stream."""
    kind = response.headers.get("content-type", [""])[0]
    text = response.content.decode() if kind in (NDJSON, SSE) else ""
    if kind == NDJSON:
        yield next((fault for line in text.splitlines() if (fault := _record_fault(case, line))), "")
    elif kind == SSE:
        ended = (
            text.endswith(("data: [DONE]\n\n", '{"type":"message_stop"}\n\n')) or "event: response.completed" in text
        )
        ended = ended or "event: response.incomplete" in text or '"error"' in text
        yield "" if ended else f"the stream just stops: {text[-300:]!r}"


def _record_fault(case: Case[Any], line: str) -> str:
    """Each line of a stream is what the answer would have been, or an error."""
    raw = case.operation.schema.raw_schema
    answer = case.operation.definition.raw["responses"]
    if "application/json" not in answer["200"].get("content", {}):
        return ""  # lines of a log, whose fields are nobody's contract
    wanted = [answer[status]["content"]["application/json"]["schema"] for status in ("200", "default")]
    valid = jsonschema_rs.is_valid({"anyOf": wanted, "components": raw["components"]}, json.loads(line))
    return "" if valid else f"a line that is not described: {line}"


def main() -> int:
    """Run a campaign against a daemon of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Daemon(Path(folder), fakes={name: {} for name in MODELS}) as daemon:
        report = campaign(daemon.url, asked.cases, asked.seed)
    print(f"{report.cases} requests, {report.streams} streams, {time.monotonic() - began:.0f} s, seed {asked.seed}")
    print(", ".join(f"{status}: {count}" for status, count in sorted(report.statuses.items())))
    for failure in report.failures:
        print(f"\n{failure}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
