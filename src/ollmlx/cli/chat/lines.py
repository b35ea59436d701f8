'''From typed lines to what was meant: `"""` blocks joined, commands told from prompts. Pure.'''

from __future__ import annotations

from dataclasses import dataclass

FENCE = '"""'


@dataclass(frozen=True)
class Entry:
    """One complete input. `command`: it is for the program (`/set …`), not for the model."""

    text: str
    command: bool = False


class Lines:
    """Collects lines until an input is complete.

    A line that begins with three quotes opens a block, one that ends with them closes it; what is inside is for the
    model, slashes included. `/set system` takes a block as its value.
    """

    def __init__(self) -> None:
        self._head = ""
        self._block: list[str] | None = None

    @property
    def open(self) -> bool:
        """Whether a block waits for its end."""
        return self._block is not None

    def drop(self) -> None:
        """Forget a block that was begun."""
        self._head, self._block = "", None

    def feed(self, line: str) -> Entry | None:
        """Take a line; the input it completes, or None when there is none yet."""
        if self._block is None:
            head, body = _opening(line)
            if body is None:
                return _plain(line)
            self._head, self._block, line = head, [], body
        closed = line.rstrip().endswith(FENCE)
        self._block.append(line.rstrip().removesuffix(FENCE) if closed else line)
        if not closed:
            return None
        entry = Entry(self._head + "\n".join(self._block), command=bool(self._head))
        self.drop()
        return entry


def is_command(line: str) -> bool:
    """Whether a line is for the program. A path such as `/usr/bin` is for the model."""
    first = line.split(None, 1)[0] if line.split() else ""
    return first.startswith("/") and "/" not in first[1:]


def _opening(line: str) -> tuple[str, str | None]:
    """What stands before an opening fence, and after it; (line, None) when no block opens."""
    stripped = line.lstrip()
    if stripped.startswith(FENCE):
        return "", stripped.removeprefix(FENCE)
    words = stripped.split(None, 2)
    if words[:2] == ["/set", "system"] and len(words) == 3 and words[2].startswith(FENCE):
        return "/set system ", words[2].removeprefix(FENCE)
    return line, None


def _plain(line: str) -> Entry | None:
    text = line.strip()
    return Entry(text, command=is_command(text)) if text else None
