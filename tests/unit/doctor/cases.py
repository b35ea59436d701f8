"""Machines broken as people have them, by `cases.toml`: the doctor examines each, and what it prints is typed.

`python -m tests.unit.doctor.cases` prints the table of docs/doctor.md. A step of a case is a verb with its arguments;
files are really broken, and what cannot be had here (a card, a clock, another user) is described to the doctor.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.servers.ollama_folder import OllamaFolder
from tests.servers.tiny import write_model
from tests.unit.doctor.contexts import (
    HEALTHY,
    MAC,
    READY,
    VERSIONS,
    FakeDaemon,
    FakeProcesses,
    examined,
    settle,
    version_of,
)
from tests.unit.doctor.test_checks_storage import sign
from tests.unit.doctor.test_mending import Terminal
from tests.unit.plugins.mlx.conftest import tiny_gguf

from ollmlx import ModelName
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.daemon import DaemonReply
from ollmlx.doctor.machine import Completed, Process, run_child
from ollmlx.errors import InvalidRequest
from ollmlx.errors.findings import Finding
from ollmlx_llamacpp.backend import xllamacpp_is_installed

FILE = Path(__file__).with_name("cases.toml")
NOT_TYPED = re.compile(
    r"(sudo|kill|pip|python\S*|apt-get|brew|osascript|softwareupdate|ulimit|curl|conda|docker|ldd|nvidia-smi|du|df)\b"
    r"|.*(-m pip|/pip|\| ollmlx|sudo) "
)
"""Commands that would reach beyond the home folder of the test. They do nothing here, unless they are what mends it."""
ROUNDS = 6


@dataclass(frozen=True)
class Case:
    """A machine that somebody had.

    `seen`: the thread. `says`: words of the finding. `mends`: a pattern of the command that undoes what is described.
    `note`: it is information only, and nothing is wrong.
    """

    name: str
    group: str
    seen: str
    code: str
    do: tuple[str, ...]
    says: str = ""
    mends: str = ""
    mended: bool = True
    note: bool = False


@dataclass
class Broken(Terminal):
    """The terminal of somebody with such a machine. `parts`: what is described to the doctor."""

    toml: list[str] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)
    denied: dict[Path, int] = field(default_factory=dict)
    makers: dict[str, Callable[[], None]] = field(default_factory=dict)
    without: dict[str, Callable[[], object]] = field(default_factory=dict)
    mends: str = ""
    llama: str = ""

    def context(self) -> CheckContext:
        context = replace(super().context(), child=partial(examine_here, self.llama))
        return replace(context, **self.parts)

    def wrong(self) -> list[Finding]:
        real = os.access
        access = lambda path, mode, **more: not self.denied.get(Path(path), 0) & mode and real(path, mode)  # noqa: E731
        installed = self.llama != "missing" and xllamacpp_is_installed()
        with patch("os.access", access), patch("ollmlx_llamacpp.backend.xllamacpp_is_installed", lambda: installed):
            return super().wrong()

    def type(self, command: str) -> None:
        """Type a command. What nobody can do here is undone when the command that mends it is typed."""
        words = shlex.split(command, comments=True)
        if self.mends and re.search(self.mends, command):
            self.parts.clear()
            self.denied.clear()
            self.llama = ""
        if "create" in words:
            self.without.get(ModelName.parse(words[words.index("create") + 1]).key, lambda: None)()
        if words[:2] == ["ollmlx", "pull"]:
            name = ModelName.parse(words[2])
            self.makers.get(name.key, partial(_make, self.home / "models/mlx" / name.folder, ""))()
        elif not NOT_TYPED.match(command):
            super().type(command)

    def path(self, text: str) -> Path:
        return self.home / text


async def examine_here(llama: str, argv: Sequence[str], seconds: float) -> Completed:
    """Load MLX models on trial in this process, which has MLX already; llama.cpp's trial really is a child."""
    if "ollmlx_mlx.engine.dry_load" in argv:
        from ollmlx_mlx.engine.dry_load import examine

        results = [(folder, *examine(Path(folder))) for folder in argv[4:]]
        lines = [json.dumps({"folder": folder, "problem": problem, "code": code}) for folder, problem, code in results]
        return Completed(0, "\n".join(lines), "")
    if any("llamacpp" in word for word in argv):
        if llama:
            return Completed(1, "", llama)
        return await run_child(argv, 60)
    return Completed(0, "", "")


# -- the vocabulary ----------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Broken, str], None]] = {}


def step(function: Callable[[Broken, str], None]) -> Callable[[Broken, str], None]:
    STEPS[function.__name__.rstrip("_")] = function
    return function


@step
def set(broken: Broken, text: str) -> None:
    """`set NAME=VALUE`: a variable."""
    name, _, value = text.replace("{home}", str(broken.home)).partition("=")
    broken.environ[name] = value


@step
def settings(broken: Broken, text: str) -> None:
    """`settings LINES`: lines of ollmlx.toml."""
    broken.toml.append(text.replace("{home}", str(broken.home)))
    settle(broken.home, "\n".join(broken.toml))


@step
def model(broken: Broken, text: str) -> None:
    """`model FOLDER [NAME]`: an MLX model that can be loaded; with a name, one that was pulled."""
    folder, _, name = text.partition(" ")
    make = partial(_make, broken.path(f"models/mlx/{folder}"), name)
    make()
    with suppress(InvalidRequest):
        broken.makers[ModelName.from_folder(folder.replace("/", "_")).key] = make


def _make(place: Path, name: str) -> None:
    if place.is_symlink():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_loadable(), place)
    if name:
        sign(place, name)


@step
def signed(broken: Broken, text: str) -> None:
    """`signed FOLDER NAME`: what lies in the folder now came with a pull."""
    folder, name = text.split(" ")
    place = broken.path(f"models/mlx/{folder}")
    sign(place, name)
    broken.makers[ModelName.parse(name).key] = partial(_make, place, name)


@step
def tiny(broken: Broken, text: str) -> None:
    """`tiny FOLDER`: a model of other tensors."""
    write_model(broken.path(f"models/mlx/{text}"))


@step
def gguf(broken: Broken, text: str) -> None:
    """`gguf NAME [JSON]`: a model of Ollama's that llama.cpp can load; the JSON leaves tensors out or adds metadata."""
    name, _, changes = text.partition(" ")

    def make(changes: str = "{}") -> None:
        data = _gguf(changes)
        OllamaFolder(broken.home / "models").add(name, {"model": data})

    make(changes or "{}")
    broken.makers[ModelName.parse(name).key] = make


@step
def over(broken: Broken, text: str) -> None:
    """`over KIND NAME JSON`: a model of Ollama's with an adapter or a projector, of which the JSON tells the header."""
    kind, name, told = text.split(" ", 2)
    layers, folder = {"model": _gguf("{}")}, OllamaFolder(broken.home / "models")
    folder.add(name, layers | {kind: _header_only(**json.loads(told))})
    broken.without[ModelName.parse(name).key] = lambda: folder.add(name, layers)


@step
def adapter(broken: Broken, text: str) -> None:
    """`adapter PATH JSON`: an adapter for MLX with tensors of these shapes."""
    import mlx.core as mx

    path, _, shapes = text.partition(" ")
    write(broken, f"{path}/adapter_config.json {{}}")
    tensors = {name: mx.zeros(shape) for name, shape in json.loads(shapes).items()}
    mx.save_safetensors(str(broken.path(path) / "adapters.safetensors"), tensors)


@step
def write(broken: Broken, text: str) -> None:
    """`write PATH TEXT`: a file with this text."""
    path, _, content = text.replace("{home}", str(broken.home)).partition(" ")
    for file in _found(broken, path):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode())


@step
def change(broken: Broken, text: str) -> None:
    """`change PATH JSON`: keys of a JSON file."""
    path, _, changes = text.partition(" ")
    file = broken.path(path)
    file.write_text(json.dumps({**json.loads(file.read_text()), **json.loads(changes)}), encoding="utf-8")


@step
def cut(broken: Broken, text: str) -> None:
    """`cut PATH BYTES`: the end of a file is missing."""
    path, _, size = text.rpartition(" ")
    for file in _found(broken, path):
        os.truncate(file, file.stat().st_size - int(size))


@step
def keep(broken: Broken, text: str) -> None:
    """`keep PATH BYTES`: nothing but the beginning of a file is there."""
    path, size = text.split(" ")
    os.truncate(broken.path(path), int(size))


@step
def zero(broken: Broken, text: str) -> None:
    """`zero PATH [FROM]`: a file of its size, all zeros; for safetensors behind the header, with `data`."""
    path, _, kept = text.partition(" ")
    for file in _found(broken, path):
        content = file.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little") if kept else 0
        file.write_bytes(content[:start] + bytes(len(content) - start))


@step
def remove(broken: Broken, text: str) -> None:
    """`remove PATH`: a file or a folder is gone."""
    for path in _found(broken, text):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@step
def move(broken: Broken, text: str) -> None:
    """`move FROM TO`"""
    source, target = text.split(" ")
    (path,) = _found(broken, source)
    broken.path(target).parent.mkdir(parents=True, exist_ok=True)
    path.rename(broken.path(target))


@step
def copy(broken: Broken, text: str) -> None:
    """`copy FROM TO`"""
    source, target = map(broken.path, text.split(" "))
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


@step
def link(broken: Broken, text: str) -> None:
    """`link PATH TARGET`: in place of whatever was there."""
    path, target = text.split(" ")
    place = broken.path(path)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(target if target.startswith("/") else broken.path(target))


@step
def folder(broken: Broken, text: str) -> None:
    """`folder PATH`: an empty folder."""
    broken.path(text).mkdir(parents=True)


@step
def mode(broken: Broken, text: str) -> None:
    """`mode OCTAL PATH`"""
    octal, path = text.split(" ")
    broken.path(path).chmod(int(octal, 8))


@step
def denied(broken: Broken, text: str) -> None:
    """`denied RIGHTS PATH`: rights (of rwx) that this user does not have; root, which may run the tests, has all."""
    rights, path = text.split(" ")
    broken.denied[broken.path(path)] = sum({"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}[one] for one in rights)


@step
def machine(broken: Broken, text: str) -> None:
    """`machine JSON`: properties of the machine; those of folders by a part of the path."""
    values = json.loads(text.replace("{home}", str(broken.home)))
    if "user_site" in values:
        values["user_site"] = Path(values["user_site"])
    base = MAC if values.get("system") == "darwin" else broken.parts.get("machine", HEALTHY)
    for key in ("macos", "python"):
        if key in values:
            values[key] = tuple(values[key])
    for key in ("free_space", "free_inodes", "flags"):
        if key in values:
            values[key] = partial(_of_folder, values[key], getattr(base, key))
    broken.parts["machine"] = replace(base, **values)


def _of_folder(table: dict[str, Any], otherwise: Callable[[Path], Any], path: Path) -> Any:
    return next((value for part, value in table.items() if part in str(path)), otherwise(path))


@step
def processes(broken: Broken, text: str) -> None:
    """`processes JSON`: what listens, and what can be bound; a listener is the fields of a process."""
    values = json.loads(text)
    if "listening" in values:
        values["listening"] = Process(
            **{**values["listening"], "command": tuple(values["listening"].get("command", ()))}
        )
    broken.parts["processes"] = replace(broken.parts.get("processes", FakeProcesses()), **values)


@step
def daemon(broken: Broken, text: str) -> None:
    """`daemon JSON`: paths with the answers of a daemon that is ready otherwise, or null: there is none."""
    answers = json.loads(text.replace("{home}", str(broken.home)))
    table = {} if answers is None else {**READY, **{path: DaemonReply(200, body) for path, body in answers.items()}}
    broken.parts["daemon"] = FakeDaemon({path: reply for path, reply in table.items() if reply.body is not None})


@step
def child(broken: Broken, text: str) -> None:
    """`child STATUS ERROR`: how the trial of MLX ends."""
    status, _, error = text.partition(" ")

    async def run(argv: Sequence[str], seconds: float) -> Completed:
        return Completed(int(status), "", error)

    broken.parts["child"] = run


@step
def versions(broken: Broken, text: str) -> None:
    """`versions JSON`: versions of installed packages; null: not installed."""
    broken.parts["version_of"] = partial(version_of, versions={**VERSIONS, **json.loads(text)})


@step
def clock(broken: Broken, text: str) -> None:
    """`clock DATE`"""
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    broken.parts["now"] = lambda: moment


@step
def user(broken: Broken, text: str) -> None:
    """`user ID`: the user who runs the doctor."""
    broken.parts["user"] = int(text)


@step
def record(broken: Broken, text: str) -> None:
    """`record PID`: a runner that an earlier daemon left, with this process id."""
    place = broken.home / "state/runners"
    place.mkdir(exist_ok=True)
    content = {"runner": "m", "pid": int(text), "started": "", "boot": "", "nonce": "n"}
    (place / f"{text}.json").write_text(json.dumps(content), encoding="utf-8")
    broken.parts["processes"] = FakeProcesses(environments={int(text): {"OLLMLX_RUNNER_NONCE": "n"}})


@step
def oldblobs(broken: Broken, text: str) -> None:
    """`oldblobs`: blobs are named `sha256:…`, as Ollama named them until 0.1.31."""
    for path in (broken.home / "models/blobs").iterdir():
        path.rename(path.with_name(path.name.replace("-", ":", 1)))


@step
def unauthorized(broken: Broken, text: str) -> None:
    """`unauthorized`: the daemon wants an API key."""
    broken.parts["daemon"] = FakeDaemon({"/api/version": DaemonReply(401, {"error": "unauthorized"})})


@step
def llama(broken: Broken, text: str) -> None:
    """`llama missing`, or `llama ERROR`: it cannot be imported."""
    broken.llama = text


def _found(broken: Broken, pattern: str) -> list[Path]:
    return sorted(broken.home.glob(pattern)) if "*" in pattern else [broken.path(pattern)]


@cache
def _loadable() -> Path:
    """Return the folder of a tiny model with weights that are not zero, made once."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    config = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 512, "rms_norm_eps": 1e-5, "vocab_size": 64,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    place = Path(tempfile.mkdtemp(prefix="loadable-")) / "model"
    write_model(place, config__json=json.dumps(config).encode())
    vocabulary = {f"t{number}": number for number in range(64)}
    Tokenizer(WordLevel(vocabulary, unk_token="t0")).save(str(place / "tokenizer.json"))
    mx.save_safetensors(
        str(place / "model.safetensors"), dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    )
    return place


@cache
def _gguf(changes: str) -> bytes:
    """Return a tiny GGUF file. `changes`: `architecture`, `tensors` (null: left out) and `metadata`, as JSON."""
    told = json.loads(changes)
    data = json.loads((Path(__file__).parents[1] / "plugins/mlx/data/llamacpp_ids.json").read_text(encoding="utf-8"))
    metadata = {**data["kinds"]["smollm"]["metadata"], **told.get("metadata", {})}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "m.gguf"
        tiny_gguf(file, told.get("architecture", "llama"), "F32", told.get("tensors", {}), metadata)
        return file.read_bytes()


def _header_only(architecture: str, metadata: dict[str, Any], tensors: dict[str, list[int]]) -> bytes:
    """Return a GGUF file with these tensors, all zeros."""
    import gguf
    import numpy as np

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "m.gguf"
        writer = gguf.GGUFWriter(str(file), architecture)
        for key, value in metadata.items():
            writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
        for name, shape in tensors.items():
            writer.add_tensor(name, np.zeros(shape, np.float32))
        for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            finish()
        writer.close()
        return file.read_bytes()


# -- the cases ---------------------------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    """Yield every case of the file."""
    for group, rows in tomllib.loads(FILE.read_text(encoding="utf-8")).items():
        for row in rows:
            yield Case(group=group, **{**row, "do": tuple(row["do"])})


@dataclass(frozen=True)
class Verdict:
    """The doctor's first finding, if any, and what is still wrong after its commands were typed."""

    case: Case
    first: Finding | None
    left: tuple[Finding, ...]

    @property
    def named(self) -> bool:
        words = f"{self.first.title} {' '.join(self.first.evidence)}" if self.first else ""
        return self.first is not None and self.first.code == self.case.code and self.case.says in words

    @property
    def mended(self) -> bool:
        return self.named and not self.left

    @property
    def misjudged(self) -> bool:
        """True if another cause was named first."""
        return self.first is not None and not self.named


def judge(case: Case, home: Path) -> Verdict:
    """Break a machine, look at it, and type the commands of the first finding until nothing is wrong."""
    broken = Broken(home, mends=case.mends)
    for line in case.do:
        verb, _, rest = line.partition(" ")
        STEPS[verb](broken, rest)
    found = broken.wrong()
    notes = examined(broken.context()).findings if case.note else ()
    first = found[0] if found else next((one for one in notes if one.code == case.code), None)
    for _ in range(ROUNDS):
        if not found:
            break
        for command in found[0].commands:
            broken.type(command)
        found = broken.wrong()
    return Verdict(case, first, tuple(found))


def table(verdicts: Sequence[Verdict]) -> str:
    """Return the rows of docs/doctor.md: by class, how many were named, mended and misjudged."""
    lines = ["| class | cases | named | mended | misjudged |", "|---|---|---|---|---|"]
    groups = dict.fromkeys(verdict.case.group for verdict in verdicts)
    for group in (*groups, "all"):
        own = [one for one in verdicts if group in (one.case.group, "all")]
        counts = (sum(getattr(one, what) for one in own) for what in ("named", "mended", "misjudged"))
        lines.append(f"| {group} | {len(own)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


@contextmanager
def patient() -> Iterator[None]:
    """Load plugins without the doctor's short time limit, which a busy machine may exceed."""
    with patch("ollmlx.doctor.context.PLUGIN_SECONDS", 60.0):
        yield


def main() -> None:
    """Print every case that is not named or not mended, then the table. `main`'s arguments: words of names."""
    chosen = [case for case in cases() if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:])]
    verdicts = []
    for case in chosen:
        with tempfile.TemporaryDirectory() as home, patient():
            verdict = judge(case, Path(home))
        verdicts.append(verdict)
        if not verdict.named or (case.mended and not verdict.mended):
            left = [(one.code, one.title, one.commands) for one in verdict.left]
            said = (verdict.first.code, verdict.first.title, verdict.first.commands) if verdict.first else None
            sys.stderr.write(f"{case.name}: expected {case.code} {case.says!r}\n  said {said}\n  left {left}\n")
    sys.stdout.write(table(verdicts) + "\n")


if __name__ == "__main__":
    main()
