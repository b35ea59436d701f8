"""What every check of the doctor must do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any

import pytest

from ollmlx import Check, Severity
from ollmlx.testing.suites.suite import Suite

CODE = re.compile(r"[A-Z]{3}[0-9]{3}")


class CheckSuite(Suite):
    """Subclass it; say which check, where its runbooks are, a world in which all is well, and one for each finding.

    class TestMyCheck(CheckSuite):
        def make_check(self):
            return MyCheck()

        def healthy(self):
            return World(...)

        def sick(self):
            return {"XYZ001": World(...)}
    """

    def make_check(self) -> Check:
        """The check under test."""
        raise NotImplementedError

    def make_sick_check(self, code: str) -> Check:
        """The check that finds this code in its world, when what it looks at is its own and not the world's."""
        return self.make_check()

    def runbooks(self) -> Traversable | None:
        """The folder with a page `CODE.md` for each code; None when ollmlx ships them."""
        return None

    def healthy(self) -> Any:
        """A world in which it finds nothing wrong."""
        raise NotImplementedError

    def sick(self) -> Mapping[str, Any]:
        """For each code, a world in which it finds that."""
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

    async def test_every_code_is_found_in_its_world(self, check: Check) -> None:
        worlds = self.sick()
        assert set(worlds) == set(check.codes), "a code without a world that provokes it"
        for code, world in worlds.items():
            findings = [finding for finding in await self.make_sick_check(code).run(world) if finding.code == code]
            assert findings, f"{code} was not found"
            for finding in findings:
                assert finding.title
                assert not finding.title.endswith("."), "a title is a headline"
                assert all(command == command.strip() for command in finding.commands)

    async def test_it_reports_no_code_that_it_did_not_declare(self, check: Check) -> None:
        looks = [(check, self.healthy()), *((self.make_sick_check(code), world) for code, world in self.sick().items())]
        for each, world in looks:
            assert {finding.code for finding in await each.run(world)} <= set(check.codes)

    async def test_looking_twice_finds_the_same(self) -> None:
        for code, world in self.sick().items():
            check = self.make_sick_check(code)
            assert list(await check.run(world)) == list(await check.run(world))

    def test_every_code_has_its_page(self, check: Check) -> None:
        pages = self.runbooks()
        if pages is None:
            pytest.skip("ollmlx ships the pages of this check")
        for code in check.codes:
            page = pages / f"{code}.md"
            assert page.is_file(), f"{code}.md is missing"
            assert page.read_text(encoding="utf-8").startswith(f"# {code}"), f"{code}.md starts with its code"
