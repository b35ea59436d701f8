"""Attack: a folder with a settings file of its own, in which somebody works. Its code ran, and it got their key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollmlx.settings.load import LoadedSettings, load_settings
from ollmlx.settings.model import ModelSettings
from ollmlx.settings.trust import TrustedFiles

ROOT = Path(__file__).parents[2]
ATTACK = """
[server]
host = "{host}"
origins = ["*"]
[plugins]
paths = ["plugin.py"]
[plugins.hub]
endpoint = "http://{host}"
[storage]
models = "models"
state = "state"
[security]
allow_no_auth = true
allow_remote_code = ["stranger/model"]
api_keys = ["of-the-stranger-0123456789"]
push = true
[models.m.cluster]
hosts = ["localhost", "stranger"]
[runners]
max_queue = 7
sandbox = false
[logging]
prompts = true
"""


class Listener:
    """The stranger's server: it keeps what it receives."""

    def __init__(self) -> None:
        self.received = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(60)
                self.received += connection.recv(65536)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def stranger() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def folder(tmp_path: Path, stranger: Listener) -> Path:
    """A folder with a settings file, and a plugin that leaves the file `ran`."""
    made = tmp_path / "download"
    made.mkdir(mode=0o755)
    (made / "ollmlx.toml").write_text(ATTACK.format(host=stranger.host), encoding="utf-8")
    (made / "ollmlx.toml").chmod(0o644)
    (made / "plugin.py").write_text(f"open({str(made / 'ran')!r}, 'w').close()\n", encoding="utf-8")
    return made


def ollmlx(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "OLLAMA_API_KEY": "the-persons-key",
        **environ,
    }
    return subprocess.run(
        [Path(sys.executable).with_name("ollmlx"), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False, timeout=120, cwd=folder, env=environment,
    )  # fmt: skip


def load(folder: Path, **environ: str) -> LoadedSettings:
    return load_settings(None, None, {"HOME": str(folder.parent), **environ}, folder)


@pytest.mark.parametrize("arguments", [["plugin", "list"], ["doctor", "config"], ["config", "check"], ["list"], ["ps"]])
def test_no_command_runs_the_folders_code_or_sends_it_the_key(
    folder: Path, stranger: Listener, arguments: list[str]
) -> None:
    done = ollmlx(folder, *arguments)
    assert not (folder / "ran").exists()
    assert b"the-persons-key" not in stranger.received
    assert "[plugins] paths: ignored, because this file was found and is not trusted; ollmlx config trust" in (
        done.stdout + done.stderr
    )


@pytest.mark.finding("CFG013")
def test_a_folder_that_is_trusted_once_sets_everything_until_its_file_changes(folder: Path, stranger: Listener) -> None:
    assert ollmlx(folder, "config", "trust").returncode == 0
    assert "warning" not in ollmlx(folder, "list").stderr
    assert b"the-persons-key" in stranger.received
    assert ollmlx(folder, "plugin", "list").returncode == 0
    assert (folder / "ran").exists(), "this is what trust means"
    assert ollmlx(folder, "config", "trust", "--list").stdout == f"{folder / 'ollmlx.toml'}\n"
    assert (folder.parent / ".ollmlx/trusted.json").stat().st_mode & 0o777 == 0o600

    with (folder / "ollmlx.toml").open("a", encoding="utf-8") as file:
        file.write("# another word\n")
    assert "not trusted" in ollmlx(folder, "list").stderr
    assert ollmlx(folder, "config", "trust").returncode == 0
    assert load(folder).warnings == ()
    assert ollmlx(folder, "config", "trust", "--revoke").returncode == 0
    assert {notice.code for notice in load(folder).warnings} == {"CFG013"}
    assert ollmlx(folder, "config", "trust", "--revoke").returncode == 1


def test_what_harms_nobody_is_taken_from_a_file_that_is_not_trusted(folder: Path) -> None:
    loaded = load(folder)
    default = load_settings(None, None, {"HOME": str(folder.parent)}, folder.parent).settings
    found = loaded.settings
    assert found.runners.max_queue == 7
    assert (found.plugins, found.storage, found.security) == (default.plugins, default.storage, default.security)
    assert (found.runners.sandbox, found.logging) == (True, default.logging)
    assert (found.server, found.models["m"].cluster) == (default.server, ModelSettings().cluster)
    ignored = {".".join(notice.path) for notice in loaded.warnings}
    assert ignored == {
        "server.host", "server.origins", "plugins.paths", "plugins.hub.endpoint", "storage.models", "storage.state",
        "security.allow_no_auth", "security.allow_remote_code", "security.api_keys", "security.push",
        "runners.sandbox", "logging.prompts", "models.m.cluster.hosts",
    }  # fmt: skip


@pytest.mark.parametrize("asked", [{"OLLMLX_CONFIG": "ollmlx.toml"}, {"OLLMLX_CONFIG": "./ollmlx.toml"}])
def test_a_file_that_is_asked_for_sets_everything(folder: Path, asked: dict[str, str]) -> None:
    loaded = load(folder, **asked)
    assert loaded.warnings == ()
    assert loaded.settings.plugins.paths == (folder / "plugin.py",)
    assert load_settings(folder / "ollmlx.toml", None, {}, folder).settings == loaded.settings


@pytest.mark.parametrize(
    ("changed", "mode", "reason"),
    [
        (".", 0o777, "other users can write to its folder"),
        (".", 0o1777, "other users can write to its folder"),
        ("ollmlx.toml", 0o666, "other users can write it"),
        (".", -1, "its folder belongs to another user"),
        ("ollmlx.toml", -1, "it belongs to another user"),
    ],
)
def test_a_file_that_others_can_write_is_not_used_and_cannot_be_trusted(
    folder: Path, changed: str, mode: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    TrustedFiles({"HOME": str(folder.parent)}).add(folder / "ollmlx.toml")
    own = folder.parent / ".config/ollmlx/ollmlx.toml"
    own.parent.mkdir(parents=True)
    own.write_text("[runners]\nmax_queue = 3", encoding="utf-8")
    if mode >= 0:
        (folder / changed).chmod(mode)
    elif os.geteuid() == 0:
        os.chown(folder / changed, 65534, -1)
    else:
        pytest.skip("only root can give files away")
    loaded = load(folder)
    assert [notice.problem for notice in loaded.warnings] == [f"this settings file is ignored: {reason}"]
    assert loaded.files == (own,)
    assert loaded.settings.runners.max_queue == 3
    assert reason in ollmlx(folder, "config", "trust").stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "it is no regular file"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("# " + "x" * (2 << 20), "more than 1048576 bytes"),
        ("[runners]\nmax_queue = 7\n[aliases]\n" + "".join(f'a{n} = "x"\n' for n in range(9999)), ""),
        ("[plugins.x]\nlist = [\n" + "1,\n" * 250_000 + "]", "not trusted"),
        ("[plugins.x]\n" + "".join(f"k{n} = 1\n" for n in range(40_000)), "not trusted"),
        ("".join(f"k{n} = 1\n" for n in range(40_000)), "100 faults in the settings"),
    ],
    ids=["pipe", "depth", "size", "aliases", "a long list", "plugins", "unknown keys"],
)
def test_no_content_of_a_found_file_occupies_a_command(folder: Path, content: str | None, told: str) -> None:
    """A pipe kept every command in the folder waiting; a list of 250,000 lines was parsed once for each line."""
    file = folder / "ollmlx.toml"
    file.unlink()
    if content is None:
        os.mkfifo(file, 0o600)
    else:
        file.write_text(content, encoding="utf-8")
    done = ollmlx(folder, "config", "check")  # the guard against hanging is 120 s
    assert "Traceback" not in done.stderr
    assert told in done.stdout + done.stderr


def test_the_folder_cannot_name_the_record_of_trusted_files(folder: Path) -> None:
    (folder / "state").mkdir()
    TrustedFiles({"HOME": "/", "OLLMLX_STORAGE__STATE": str(folder / "state")}).add(folder / "ollmlx.toml")
    assert "storage.state" in {".".join(notice.path) for notice in load(folder).warnings}


def test_the_reference_file_needs_no_trust() -> None:
    loaded = load_settings(ROOT / "ollmlx.toml", None, {}, ROOT)
    assert loaded.settings == load_settings(None, None, {"HOME": "/nowhere"}, Path("/")).settings


def test_defaults_in_a_file_that_is_not_trusted_are_no_news(tmp_path: Path) -> None:
    (tmp_path / "ollmlx.toml").write_bytes((ROOT / "ollmlx.toml").read_bytes())
    assert load(tmp_path).warnings == ()
