"""Telling systemd (or whoever set NOTIFY_SOCKET) that the daemon is ready, or stopping."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send one state (`READY=1`, `STOPPING=1`) as sd_notify does. False when nobody asked to be told."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
        except OSError:  # the one who asked is gone
            return False
    return True
