"""Word wrap for text that arrives piece by piece, and what of it may reach a terminal. Pure."""

from __future__ import annotations

from ollmlx.cli.table import cells

# Everything that moves the cursor or starts an escape sequence: a model's words must not drive the terminal.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """The text without control characters, line feeds and tabs excepted."""
    return text.translate(_CONTROLS)


class WordWrap:
    """Breaks lines between words. What `feed` returns can be written at once; `end` returns what is still held.

    A word is written as it grows, so that streaming stays visible; when it turns out not to fit, it is taken back from
    the line and written on the next one. `width` None never breaks.
    """

    def __init__(self, width: int | None) -> None:
        self._width = width - 1 if width is not None and width > 8 else None
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """What to write for the next piece of text."""
        if self._width is None:
            return text
        return "".join(self._put(char, self._width) for char in text)

    def _put(self, char: str, width: int) -> str:
        if char == "\n":
            self._column, self._word = 0, ""
            return char
        columns = cells(char) if char != "\t" else 8 - self._column % 8
        if char in " \t":
            self._word = ""
            if self._column + columns > width:
                self._column = 0
                return "\n"  # the space that would stand at the border becomes the break
            self._column += columns
            return char
        if self._column + columns <= width:
            self._word += char
            self._column += columns
            return char
        return self._break(char, columns)

    def _break(self, char: str, columns: int) -> str:
        word, taken = self._word, cells(self._word)
        if taken >= self._column or columns == 2:  # one word fills the line, or the script writes no spaces
            self._word, self._column = char, columns
            return f"\n{char}"
        self._word, self._column = word + char, taken + columns
        return f"\x1b[{taken}D\x1b[K\n{word}{char}" if taken else f"\n{char}"
