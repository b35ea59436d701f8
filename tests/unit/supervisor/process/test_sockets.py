"""Sockets in a private folder with a short path."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ollmlx.errors import StorageError
from ollmlx.supervisor.process.sockets import MAX_PATH, SocketDir


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def test_the_socket_listens_in_a_folder_of_ours_alone(short: Path) -> None:
    place = SocketDir.create(short)
    listener, path = place.listen()
    with listener, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(os.fspath(path))
        assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    place.remove()
    assert not place.folder.exists()


def test_a_long_state_folder_is_not_used_for_sockets(tmp_path: Path, short: Path) -> None:
    place = SocketDir.create(tmp_path / ("long" * 30), fallback=short)
    assert place.folder.is_relative_to(short)
    listener, path = place.listen()
    listener.close()
    assert len(os.fsencode(path)) <= MAX_PATH
    place.remove()


def test_stale_sockets_are_swept_and_other_files_stay(short: Path) -> None:
    (short / "run").mkdir()
    (short / "run/dead.sock").touch()
    (short / "run/note.txt").touch()
    place = SocketDir.create(short)
    assert [file.name for file in place.folder.iterdir()] == ["note.txt"]


def test_a_folder_that_is_a_link_is_not_trusted(tmp_path: Path, short: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (short / "run").symlink_to(tmp_path / "elsewhere")
    place = SocketDir.create(short, fallback=short)
    assert place.folder != short / "run"
    place.remove()


def test_no_place_at_all_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="sockets"):
        SocketDir.create(tmp_path / ("long" * 30), fallback=tmp_path / ("far" * 40))
