"""The folder for sockets: private, and with a short path."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ollmlx.errors import StorageError
from ollmlx.supervisor.process.state_folder import MAX_PATH, SocketDir


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def test_a_socket_listens_in_a_private_folder(short: Path) -> None:
    sockets = SocketDir.create(short)
    listener, path = sockets.listen()
    with listener, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(os.fspath(path))
        assert stat.S_IMODE(sockets.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sockets.remove()
    assert not sockets.folder.exists()


def test_a_long_state_folder_is_not_used_for_sockets(tmp_path: Path, short: Path) -> None:
    sockets = SocketDir.create(tmp_path / ("long" * 30), fallback=short)
    assert sockets.folder.is_relative_to(short)
    listener, path = sockets.listen()
    listener.close()
    assert len(os.fsencode(path)) <= MAX_PATH
    sockets.remove()


def test_sockets_of_an_earlier_daemon_are_removed_and_other_files_stay(short: Path) -> None:
    (short / "run").mkdir()
    (short / "run/stale.sock").touch()
    (short / "run/note.txt").touch()
    sockets = SocketDir.create(short)
    assert [file.name for file in sockets.folder.iterdir()] == ["note.txt"]


def test_a_folder_that_is_a_link_is_not_trusted(tmp_path: Path, short: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (short / "run").symlink_to(tmp_path / "elsewhere")
    sockets = SocketDir.create(short, fallback=short)
    assert sockets.folder != short / "run"
    sockets.remove()


def test_without_any_usable_folder_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="sockets"):
        SocketDir.create(tmp_path / ("long" * 30), fallback=tmp_path / ("far" * 40))
