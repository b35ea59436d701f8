"""Checks of environment variables: misspelt names, and values that surely are not meant.

The settings report values that cannot be used. These are used, or ignored, and mean something else than it seems.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit_settings, export_setting
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.errors.secrets import is_secret_key
from ollmlx.settings.files import working_folder
from ollmlx.settings.keys import KeyPath, keys_of, variable
from ollmlx.settings.load import OLLAMA_VARIABLES, PREFIX
from ollmlx.settings.model import Settings
from ollmlx.text.quantities import format_duration

CHECK = "ollmlx config check"
OWN = ("OLLMLX_CONFIG", "OLLMLX_RUNNER_NONCE", "OLLMLX_AGENT_KEY", "OLLMLX_SANDBOX")
"""Variables of ours that are no settings."""
OTHERS = (
    "OLLAMA_API_KEY", "OLLAMA_AUTH", "OLLAMA_CLOUD", "OLLAMA_EDITOR", "OLLAMA_FLASH_ATTENTION", "OLLAMA_GPU_OVERHEAD",
    "OLLAMA_INTEL_GPU", "OLLAMA_LLM_LIBRARY", "OLLAMA_MAX_VRAM", "OLLAMA_MULTIUSER_CACHE", "OLLAMA_NEW_ENGINE",
    "OLLAMA_NOHISTORY", "OLLAMA_NOPRUNE", "OLLAMA_NO_CLOUD", "OLLAMA_NUM_GPU", "OLLAMA_REMOTES", "OLLAMA_RUNNERS_DIR",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_USE_AUTH", "OLLAMA_VERSION", "OLLAMA_VULKAN", "OLLAMA_BASE_URL",
)  # fmt: skip
"""Variables that Ollama, its clients or its images read; they are right where they are."""
MEANT = {
    "OLLAMA_NUM_CTX": "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_CTX_SIZE": "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_TMPDIR": "TMPDIR",
    "OLLMLX_DEBUG": "OLLAMA_DEBUG",
}
"""Variables that people believe in, and those that have the effect."""
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FAMILIES = ("OLLAMA", "OLLMLX")
ALIKE_HEAD = 0.72
"""The likeness of the first words of two names."""
ALIKE = 0.84
"""The likeness of a misspelt name and the one that was meant, by difflib's measure."""
AS_THEY_ARE = ("OLLAMA_API_KEY", "HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HTTPS_PROXY", "https_proxy")
"""Variables whose readers take quotes, spaces and carriage returns for a part of the value."""
SERVICES = {
    22: "SSH", 25: "SMTP", 53: "DNS", 3306: "MySQL", 5432: "PostgreSQL", 5672: "RabbitMQ", 6379: "Redis",
    8888: "Jupyter", 9092: "Kafka", 9200: "Elasticsearch", 27017: "MongoDB",
}  # fmt: skip
DURATIONS: tuple[KeyPath, ...] = (("runners", "keep_alive"), ("runners", "load_timeout"))
SHORT = 60.0


@check("names", "config", "CFG003")
def names(context: CheckContext) -> Iterator[Finding]:
    """Report variables that nothing reads because their name is nearly, but not quite, one that ollmlx reads."""
    settings = {variable(path): path for path in _paths()}
    squeezed = {name.replace("_", ""): name for name in (*settings, *OLLAMA_VARIABLES)}
    known = {*settings, *OLLAMA_VARIABLES, *OTHERS, *OWN}
    for name in sorted(context.environ):
        told_elsewhere = name.startswith(PREFIX) and "__" in name  # the settings report a key that does not exist
        if name in known or told_elsewhere or name[:2].upper() != "OL":
            continue
        upper = re.sub(r"[^A-Z0-9]", "_", name.upper())
        head = upper.partition("_")[0]
        forms = [upper.replace(head, meant, 1) for meant in get_close_matches(head, FAMILIES, 2, ALIKE_HEAD)]
        forms = [upper, *forms] if upper.startswith(FAMILIES) else forms
        exact = (form if form in known else squeezed.get(form.replace("_", "")) or MEANT.get(form) for form in forms)
        likely = next(filter(None, exact), None) or next(filter(None, (_likely(form, known) for form in forms)), None)
        if likely is None or likely in context.environ:
            continue
        yield found(
            "CFG003", f"{name} is set, and nothing reads it; did you mean {likely}?", subject=name,
            evidence=(name,), severity=Severity.WARNING, commands=(*_renamed(context, name, likely), CHECK),
        )  # fmt: skip


def _renamed(context: CheckContext, name: str, likely: str) -> Iterator[str]:
    """Yield the commands that give a variable its right name. A shell cannot name one that is no identifier."""
    value, plain = context.environ[name], IDENTIFIER.fullmatch(name)
    if value and plain:
        yield SafeCommand(f'export {likely}="${name}"')
    elif value:
        yield SafeCommand(f"export {likely}={'VALUE' if is_secret_key(name) else shlex.quote(value)}", asks=True)
    if plain:
        yield SafeCommand(f"unset {name}")


def _paths() -> Iterator[KeyPath]:
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if hasattr(model, "model_fields"):
            yield from ((section, key) for key in keys_of(model))  # type: ignore[arg-type]


def _likely(name: str, known: set[str]) -> str | None:
    """Return the variable that was meant: one spelt alike, or the key of this name when the section is left out."""
    if name.startswith(PREFIX):
        key = name.removeprefix(PREFIX).lower()
        homes = [path for path in _paths() if path[1] == key]
        if len(homes) == 1:
            return variable(homes[0])
    return next(iter(get_close_matches(name, known, 1, ALIKE)), None)


@check("values", "config", "CFG004")
def values(context: CheckContext) -> Iterator[Finding]:
    """Report values that can be used and surely mean something else."""
    for name in AS_THEY_ARE:
        text = context.environ.get(name, "")
        if problem := _wrapping(text):
            clean = f'$(printf %s "${name}" | tr -d \'\\r\\n"\'"\'" | xargs)'
            yield found(
                "CFG004", f"{name} {problem}, which becomes a part of the value", subject=name, evidence=(name,),
                commands=(SafeCommand(f'export {name}="{clean}"'),), severity=Severity.WARNING,
            )  # fmt: skip
    hub = context.environ.get("HF_ENDPOINT", "").strip("\"' ")
    if hub and "://" not in hub:
        yield found(
            "CFG004", f"HF_ENDPOINT={hub} is no URL: https://{hub} is meant", subject="HF_ENDPOINT",
            evidence=("HF_ENDPOINT",), severity=Severity.WARNING,
            commands=(SafeCommand(f"export HF_ENDPOINT={shlex.quote('https://' + hub)}"),),
        )  # fmt: skip
    yield from _folders(context)
    temporary = context.environ.get("TMPDIR", "")
    if temporary and not os.access(temporary, os.W_OK | os.X_OK):
        yield found(
            "CFG004", f"TMPDIR={temporary} is no folder in which files can be made", subject="TMPDIR",
            evidence=("TMPDIR",), commands=(SafeCommand("unset TMPDIR"),), severity=Severity.WARNING,
        )  # fmt: skip
    yield from _without_unit(context)
    yield from _port(context)


def _wrapping(text: str) -> str:
    if "\r" in text or "\n" in text:
        return "ends with a carriage return or a line feed"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return "has quotes around it"
    return "has spaces around it" if text != text.strip() else ""


def _folders(context: CheckContext) -> Iterator[Finding]:
    places: Mapping[KeyPath, Path] = {
        ("storage", "models"): context.settings.storage.models,
        ("storage", "state"): context.settings.storage.state,
    }
    for path, folder in places.items():
        text, origin = str(folder), context.origin(*path)
        if folder.is_absolute() or text.startswith("~"):
            continue
        bare = text.strip("\"'")
        quoted_in = bare != text
        meant = bare if quoted_in and bare.startswith(("/", "~")) else str(working_folder() / bare)
        relative = "is relative: it means another folder for each working directory"
        what = "has quotes around it" if quoted_in else relative
        fix = (export_setting(context, path, shlex.quote(meant)),)
        yield found(
            "CFG004", f"[{path[0]}] {path[1]} = {text} {what}", evidence=(str(origin),), subject=text,
            commands=edit_settings(context, origin)[0] if origin.kind == "file" else fix, severity=Severity.WARNING,
        )  # fmt: skip


def _without_unit(context: CheckContext) -> Iterator[Finding]:
    """Report durations of a few seconds that were written without a unit in a variable."""
    for path in DURATIONS:
        origin, seconds = context.origin(*path), getattr(getattr(context.settings, path[0]), path[1])
        text = context.environ.get(origin.name, "").strip().strip("\"'")
        if origin.kind in ("ollama", "variable") and text.isdigit() and 0 < seconds < SHORT:
            yield found(
                "CFG004", f"{origin.name}={text} means {format_duration(seconds)}: it has no unit, and counts seconds",
                evidence=(f"minutes are written {text}m",), commands=(SafeCommand(f"export {origin.name}={text}m"),),
                instead=(f"export {origin.name}={text}s",), subject=origin.name, severity=Severity.WARNING,
            )  # fmt: skip


def _port(context: CheckContext) -> Iterator[Finding]:
    address, origin = context.address, context.origin("server", "host")
    if address.path and context.processes.is_here(address.host):
        fix = export_setting(context, ("server", "host"), address.netloc)
        yield found(
            "CFG004", f"the address ends with {address.path}: clients would call {address.url}/api/chat",
            evidence=(str(origin),), subject=address.path, severity=Severity.WARNING,
            commands=edit_settings(context, origin)[0] if origin.kind == "file" else (fix,),
        )  # fmt: skip
    service = SERVICES.get(address.port)
    if service is not None and origin.kind != "default":
        fix = export_setting(context, ("server", "host"), f"{address.host}:11434")
        yield found(
            "CFG004", f"the port {address.port} is the one of {service}; ollmlx and Ollama use 11434",
            evidence=(str(origin),), subject=str(address.port), severity=Severity.WARNING,
            commands=edit_settings(context, origin)[0] if origin.kind == "file" else (fix,),
        )  # fmt: skip


CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@check("certificates", "network", "NET005")
def certificates(context: CheckContext) -> Iterator[Finding]:
    """Report variables that name certificates which are not there: every download fails."""
    for name in CERTIFICATES:
        text = context.environ.get(name, "")
        if text and not os.path.exists(text):  # noqa: PTH110 - Path.exists raises where it may not look
            yield found(
                "NET005", f"{name} names {text}, which does not exist: no server can be trusted", subject=name,
                evidence=(name,), commands=(SafeCommand(f"unset {name}"),), severity=Severity.WARNING,
            )  # fmt: skip
