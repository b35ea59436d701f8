"""The suite of the doctor's checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

import pytest

from ollmlx import Check, Severity
from ollmlx.doctor.runbooks import pages
from ollmlx.testing.suites import Suite

CODE = re.compile(r"[A-Z]{3}[0-9]{3}")


class CheckSuite(Suite):
    """Tests a check. Subclass it; return the check, its runbooks, and the contexts in which it finds nothing or a code.

    class TestMyCheck(CheckSuite):
        def make_check(self):
            return MyCheck()

        def healthy(self):
            return CheckContext(...)

        def sick(self):
            return {"XYZ001": CheckContext(...)}
    """

    def make_check(self) -> Check:
        """Return the check under test."""
        raise NotImplementedError

    def make_sick_check(self, code: str) -> Check:
        """Return a check that finds this code in its context, for checks that look at things outside the context."""
        return self.make_check()

    def runbooks(self) -> Traversable | None:
        """Return the folder with a page `CODE.md` for each code; None when ollmlx ships them."""
        return None

    def healthy(self) -> Any:
        """Return a context in which it finds nothing wrong."""
        raise NotImplementedError

    def sick(self) -> Mapping[str, Any]:
        """Return, for each code, a context in which the check finds it."""
        raise NotImplementedError

    @pytest.fixture
    def check(self) -> Check:
        return self.make_check()

    def test_it_says_what_it_is(self, check: Check) -> None:
        assert check.name
        assert check.group
        assert check.codes
        assert all(CODE.fullmatch(code) for code in check.codes)
        assert len(set(check.codes)) == len(check.codes)

    async def test_it_finds_nothing_wrong_when_all_is_well(self, check: Check) -> None:
        findings = await check.run(self.healthy())
        wrong = [finding for finding in findings if finding.severity in (Severity.ERROR, Severity.WARNING)]
        assert wrong == []

    async def test_every_code_is_found_in_its_context(self, check: Check) -> None:
        contexts = self.sick()
        assert set(contexts) == set(check.codes), "each code needs a context in which it is found"
        for code, context in contexts.items():
            findings = [finding for finding in await self.make_sick_check(code).run(context) if finding.code == code]
            assert findings, f"{code} was not found"
            for finding in findings:
                assert finding.title
                assert not finding.title.endswith("."), "a title is a headline"
                assert all(command == command.strip() for command in finding.commands)

    async def test_it_reports_no_code_that_it_did_not_declare(self, check: Check) -> None:
        sick = ((self.make_sick_check(code), context) for code, context in self.sick().items())
        for each, context in [(check, self.healthy()), *sick]:
            assert {finding.code for finding in await each.run(context)} <= set(check.codes)

    async def test_looking_twice_finds_the_same(self) -> None:
        for code, context in self.sick().items():
            check = self.make_sick_check(code)
            assert list(await check.run(context)) == list(await check.run(context))

    def test_every_code_has_its_page(self, check: Check) -> None:
        if (own := self.runbooks()) is None:
            pytest.skip("ollmlx ships the pages of this check")
        known = pages([own])
        for code in check.codes:
            assert code in known, f"{code}.md is missing"
            assert known[code].startswith(f"# {code}"), f"{code}.md starts with its code"
