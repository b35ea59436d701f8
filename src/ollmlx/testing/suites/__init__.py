"""The suites that plugin authors subclass, one for each kind of plugin; and what they share.

A test of a suite cannot be replaced in silence, only excused with a reason.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest


class Suite:
    """A group of tests that an author subclasses. `excused` maps the name of a test to why it does not hold here.

    An excused test runs all the same: when it passes, the excuse has to go.
    """

    excused: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        theirs = {name: base for base in cls.__mro__[1:] if _shipped(base) for name in vars(base) if _is_test(name)}
        for name in vars(cls):
            if name in theirs and not _shipped(cls):
                raise TypeError(
                    f"{cls.__name__}.{name} replaces a test of {theirs[name].__name__}; "
                    f'to say that it does not hold, use excused = {{"{name}": "the reason"}}'
                )
        unknown = [name for name in cls.excused if name not in theirs] if not _shipped(cls) else []
        if unknown:
            raise TypeError(f"{cls.__name__}.excused names no test of its suite: {', '.join(unknown)}")

    @pytest.fixture(autouse=True)
    def _excuse(self, request: pytest.FixtureRequest) -> None:
        reason = self.excused.get(getattr(request.node, "originalname", request.node.name))
        if reason is not None:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _shipped(cls: type) -> bool:
    return cls.__module__.startswith("ollmlx.testing.suites")


def _is_test(name: str) -> bool:
    return name.startswith("test_")
