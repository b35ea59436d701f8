"""Whether two answers are one. Pure."""

from __future__ import annotations

from itertools import zip_longest

from ollmlx.doctor.selftest.subject import Reply

TIE = 0.2
"""Two tokens whose log-probabilities differ by less may change places through rounding alone: another batch width or
chunk of a prompt adds the same numbers in another order. A heuristic: what a stale cache does is far larger."""

SHOWN = 60


def difference(one: Reply, other: Reply) -> str | None:
    """Where two greedy answers part, in words; None when they are the same, or part where two tokens were level."""
    if one.text == other.text:
        return None
    for index, (first, second) in enumerate(zip_longest(one.pieces, other.pieces)):
        if first is not None and second is not None and first.text == second.text:
            continue
        gaps = [piece.gap for piece in (first, second) if piece is not None and piece.gap is not None]
        if gaps and min(gaps) < TIE:
            return None
        said = [repr(piece.text) if piece is not None else "its end" for piece in (first, second)]
        return f"token {index + 1} is {said[0]}, then {said[1]}"
    return f"{one.text[:SHOWN]!r}, then {other.text[:SHOWN]!r}"
