"""Conformance suites: a subclass, a few methods, and a plugin is held to the contract that ollmlx's own are held to."""

from __future__ import annotations
