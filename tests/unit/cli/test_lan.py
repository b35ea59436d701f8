"""`ollmlx serve --lan`: bind, key, and the line for clients."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from ollmlx.cli.lan import KEY_FILE, client_lines, lan_overrides, page_address, qr_code
from ollmlx.settings import Settings


def settings(state: Path, **sections: Any) -> Settings:
    return Settings.model_validate({"storage": {"state": str(state)}, **sections})


def test_a_local_daemon_is_opened_with_a_key_that_stays_the_same(tmp_path: Path) -> None:
    first = lan_overrides(settings(tmp_path, server={"host": "127.0.0.1:4000"}))
    assert first["server.host"] == "0.0.0.0:4000"
    keys: Any = first["security.api_keys"]
    (key,) = keys
    assert len(key) == 48
    assert lan_overrides(settings(tmp_path))["security.api_keys"] == [key]
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_what_is_configured_already_stays(tmp_path: Path) -> None:
    bound = {"host": "192.168.1.20:4000"}
    assert lan_overrides(settings(tmp_path, server=bound, security={"api_keys": ["mine"]})) == {}
    assert lan_overrides(settings(tmp_path, server=bound, security={"allow_no_auth": True})) == {}
    assert not (tmp_path / KEY_FILE).exists()


def test_the_lines_name_machine_port_and_key(tmp_path: Path) -> None:
    served = settings(tmp_path, server={"host": "0.0.0.0:4000"}, security={"api_keys": ["k1", "k2"]})
    lines = list(client_lines(served, "attic", "192.168.1.20"))
    assert lines[1] == "  export OLLAMA_HOST=http://attic.local:4000 OLLAMA_API_KEY=k1"
    assert lines[2] == "  export OPENAI_BASE_URL=http://attic.local:4000/v1 OPENAI_API_KEY=k1"
    assert lines[3].endswith("The page is http://192.168.1.20:4000/ui/")
    assert page_address(served, "fd00::1") == "http://[fd00::1]:4000/ui/"
    opened = settings(tmp_path, server={"host": "0.0.0.0"}, security={"allow_no_auth": True})
    assert list(client_lines(opened, "attic.example.org", None))[1:] == [
        "  export OLLAMA_HOST=http://attic.example.org:11434",
        "  export OPENAI_BASE_URL=http://attic.example.org:11434/v1 OPENAI_API_KEY=none",
    ]


def test_the_address_of_the_page_is_a_code_that_a_camera_reads() -> None:
    import segno

    address = "http://192.168.1.20:4000/ui/"
    lines = qr_code(address).rstrip().splitlines()
    assert set("".join(lines)) <= set("█▀▄ ")
    cells = [[char in light for char in line] for line in lines for light in ("█▀", "█▄")]
    expected = [[not dark for dark in row] for row in segno.make(address, error="l", micro=False).matrix_iter(border=4)]
    assert cells[: len(expected)] == expected
