"""The suites that plugin authors subclass, one for each kind of plugin; and what they share.

A test of a suite cannot be replaced in silence, only excused with a reason.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

RENAMED = {"test_every_code_is_found_in_its_world": "test_every_code_is_found_in_its_context"}
"""Names of tests in API 1 that `excused` may still use, and their names today."""


class Suite:
    """A group of tests that an author subclasses. `excused` maps the name of a test to the reason why it may fail.

    An excused test still runs. When it passes, it is reported as a failure until the excuse is removed.
    """

    excused: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.excused = {RENAMED.get(name, name): reason for name, reason in cls.excused.items()}
        inherited = {name: base for base in cls.__mro__[1:] if _shipped(base) for name in vars(base) if _is_test(name)}
        for name in vars(cls):
            if name in inherited and not _shipped(cls):
                raise TypeError(
                    f"{cls.__name__}.{name} replaces a test of {inherited[name].__name__}; "
                    f'to say that it does not hold, use excused = {{"{name}": "the reason"}}'
                )
        unknown = [name for name in cls.excused if name not in inherited] if not _shipped(cls) else []
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
