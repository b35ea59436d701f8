"""The beginnings of prompts, which the prefix cache keeps: texts that change for nothing, and why a prefix was missed.

The service uses both for every conversation. Pure; imports only `types`.
"""

from __future__ import annotations
