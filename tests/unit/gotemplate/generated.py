"""Generates templates from a grammar that covers Go's language as the templates of models use it."""

# ruff: noqa: E501 - tables
from __future__ import annotations

import random
from typing import Any

TEXTS = ["", "hi", "a\nb", "<|im_start|>", "ünï 🐍", " x ", 'q"uote', "&<>", "tab\t"]
SPACES = ["", " ", "\n", "  \n\t"]


class Generator:
    """One random template and its data."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.variables: list[str] = []

    def data(self) -> dict[str, Any]:
        pick = self.random
        call = {"Function": {"Name": "look", "Arguments": {"b": pick.choice([1, 2.5, True]), "a": pick.choice(TEXTS)}}}
        messages = [
            {"Role": pick.choice(["system", "user", "assistant", "tool"]), "Content": pick.choice(TEXTS),
             "Thinking": pick.choice(["", "hm"]), "ToolCalls": pick.choice([[], [call], [call, call]])}
            for _ in range(pick.randrange(5))
        ]  # fmt: skip
        return {
            "System": pick.choice(TEXTS), "Prompt": pick.choice(TEXTS), "Response": "", "Messages": messages,
            "Tools": pick.choice([[], [{"Type": "function", "Function": {"Name": "look", "Size": 3}}]]),
            "N": pick.choice([0, 1, -7, 42, 10**12]), "F": pick.choice([0.5, -1.25, 1e21, 1e20, 3e-7, 1e-4, 123456.75, 1234567.5, 2e6]),
            "B": pick.random() < 0.5, "L": pick.choice([[], [1, 2, 3], ["a", "b"]]), "Null": None,
            "M": pick.choice([{}, {"k": "v", "n": 1}, {"inner": {"deep": [1, {"x": None}]}}]),
        }  # fmt: skip

    def template(self) -> str:
        body = self.nodes(3)
        if self.random.random() < 0.3:
            body = '{{ define "part" }}' + self.nodes(1, scoped=True) + "{{ end }}" + body
            body += '{{ template "part" ' + self.random.choice([".", "$.M", ".Messages", ""]) + " }}"
        return body

    def nodes(self, depth: int, *, scoped: bool = False) -> str:
        outer, self.variables = self.variables, [] if scoped else list(self.variables)
        made = "".join(self.node(depth) for _ in range(self.random.randrange(1, 4)))
        self.variables = outer
        return made

    def node(self, depth: int) -> str:
        pick = self.random
        chosen = pick.randrange(9 if depth else 4)
        match chosen:
            case 0:
                return pick.choice(TEXTS) + pick.choice(SPACES)
            case 1 | 2:
                return self.action(self.pipeline(2))
            case 3:
                value = self.pipeline(1)
                name = f"$v{len(self.variables)}"
                if self.variables and pick.random() < 0.4:
                    return self.action(f"{pick.choice(self.variables)} = {value}")
                self.variables.append(name)
                return self.action(f"{name} := {value}")
            case 4 | 5:
                keyword = pick.choice(["if", "with"])
                other = pick.choice(["", self.action("else") + self.nodes(depth - 1)])
                if keyword == "if" and pick.random() < 0.3:
                    other = self.action(f"else if {self.pipeline(1)}") + self.nodes(depth - 1) + other
                return self.action(f"{keyword} {self.pipeline(1)}") + self.nodes(depth - 1) + other + self.action("end")
            case 6:
                return self.action("/* a comment */", tight=True)
        return self.loop(depth)

    def loop(self, depth: int) -> str:
        pick, kept = self.random, list(self.variables)
        head = pick.choice(["", "$e := ", "$i, $e := "])
        over = pick.choice([".Messages", "$.Messages", ".L", "$.L", ".Tools", "$.M", ".ToolCalls", "$.N2", "3"])
        if over == "3" and "," in head:
            over = ".L"
        self.variables += [name for name in ("$i", "$e") if name in head]
        inner = self.nodes(depth - 1)
        if pick.random() < 0.2:
            inner += self.action("if .Content") + self.action(pick.choice(["break", "continue"])) + self.action("end")
        self.variables = kept
        other = pick.choice(["", self.action("else") + "none"])
        return self.action(f"range {head}{over}") + inner + other + self.action("end")

    def action(self, text: str, *, tight: bool = False) -> str:
        left, right = self.random.choice(["{{", "{{- "]), self.random.choice(["}}", " -}}"])
        space = "" if tight else self.random.choice(["", " "])
        return f"{left}{space}{text}{space}{right}"

    def pipeline(self, depth: int) -> str:
        first = self.command(depth)
        piped = self.random.choice(["", "", "", " | json", " | len", ' | printf "%v"', " | not", " | print 1"])
        return first + piped

    def operand(self, depth: int) -> str:
        fields = [
            ".Role", ".Content", ".System", ".Prompt", "$.System", ".N", "$.F", "$.N", ".B", "$.L", "$.M", "$.M.k",
            "$.M.inner", "$.Missing", "$.Null", ".Function.Name", ".Function.Arguments", ".", "$.Messages", ".Thinking",
            "$.Tools",
        ]  # fmt: skip
        constants = [
            '"user"',
            '"a\\n\\"b\\u00e9"',
            "`raw`",
            "0",
            "1",
            "-2",
            "2.5",
            "true",
            "false",
            "'x'",
            "0x1F",
            "1e3",
        ]
        if depth and self.random.random() < 0.25:
            return f"({self.pipeline(depth - 1)})"
        pool = fields * 2 + constants + self.variables * 4
        return self.random.choice(pool)

    def command(self, depth: int) -> str:
        if not depth or self.random.random() < 0.4:
            return self.operand(depth)
        one, two = (self.operand(depth - 1) for _ in range(2))
        return self.random.choice(
            [
                f"eq {one} {two}", f"eq .Role {two}", f'eq {one} "user" "tool"', f"ne {one} {two}", f"lt {one} {two}",
                f"ge $.N {two}", f"gt {one} 1", f"le {one} {two}", f"and {one} {two}", f"or {one} {two}", f"not {one}",
                f"len {one}", f"json {one}", f"print {one} {two}", f"println {one}", f'printf "%s-%d|%5v|%q" {one} {two}',
                "index $.Messages 0", f"index $.M {two}", f"index {one} 0", f"slice $.System {self.random.randrange(3)}",
                f"slice {one} 0 1", "slice $.L 0 1", f"html {one}", f"urlquery {one}", "(index $.Messages 0).Content",
                "len (slice $.Messages 1)", f"js {one}",
            ]
        )  # fmt: skip
