"""The figures side by side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from ollmlx.bench.measure import Measured
from ollmlx.text.quantities import format_size


def rows(found: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table: a column for each server; for two, how many times better the first is."""
    compared = len(found) == 2
    header = ["", *(one.target.label for one in found), *(["RATIO"] if compared else [])]
    lines = [
        _line("load", found, lambda one: one.load, "{:.2f} s", less_is_better=True),
        _line("memory", found, lambda one: one.memory, None, less_is_better=True),
        _line(
            f"first token, {found[0].prompt_tokens} tokens, cold",
            found,
            lambda one: median(one.cold),
            "{:.3f} s",
            less_is_better=True,
        ),
        _line("first token, next turn", found, lambda one: median(one.cached), "{:.3f} s", less_is_better=True),
    ]
    for count in found[0].rates:
        label = f"tokens/s, {count} stream{'s' if count > 1 else ''}"
        lines.append(_line(label, found, _rate_at(count), "{:.1f}", less_is_better=False))
    return header, [line for line in lines if any(line[1:])]


def _rate_at(count: int) -> Callable[[Measured], float]:
    return lambda one: median(one.rates[count])


def _line(
    label: str,
    found: Sequence[Measured],
    value: Callable[[Measured], float | None],
    form: str | None,
    *,
    less_is_better: bool,
) -> list[str]:
    values = [value(one) for one in found]
    shown = ["" if one is None else form.format(one) if form else format_size(one) for one in values]
    if len(found) != 2:
        return [label, *shown]
    first, second = values
    if not first or not second:
        return [label, *shown, ""]
    return [label, *shown, f"{second / first if less_is_better else first / second:.2f}x"]
