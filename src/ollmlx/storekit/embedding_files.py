"""A folder's files that say how texts become vectors, in the layout of sentence-transformers; nothing is loaded.

`modules.json` lists the steps after the transformer, a folder each: `1_Pooling/config.json`, dense layers such as
`2_Dense`, and normalisation. `config_sentence_transformers.json` holds prompts, `sentence_bert_config.json` the longest
text. A folder without `modules.json` may still have `1_Pooling/config.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ollmlx.errors import StorageError, Unsupported
from ollmlx.storekit.files import MAX_CONFIG, read_json, read_json_list

Pooling = Literal["mean", "cls", "last", "max"]

POOLING_TYPES: Final[dict[str, int]] = {"mean": 1, "cls": 2, "last": 3}
"""The numbers of `pooling_type` in GGUF files."""
STEP_FILES: Final = re.compile(r"\d{1,2}_[A-Za-z]{1,32}/(config\.json|model\.safetensors)")
"""The files of the steps, relative to the model's folder."""
DOCUMENT_PROMPTS: Final = ("document", "passage", "corpus")
"""The names under which authors keep the prompt of a document; the first that is there counts."""

_MODES: Final[dict[str, Pooling]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
"""In the order in which sentence-transformers joins several."""
_NAMED: Final[dict[str, Pooling]] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_OTHER: Final = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


@dataclass(frozen=True)
class EmbeddingRecipe:
    """The steps from a text's hidden states to one vector.

    `pooling`: one or more, whose results are joined. `stated`: whether a file says so. `dense`: folders of dense layers
    that follow, in order. `counts_prompt`: whether the tokens of a prompt are pooled, too. `max_tokens`: the longest
    text that the authors intend. `lower_case`: whether texts are lower-cased first.
    """

    pooling: tuple[Pooling, ...] = ("mean",)
    stated: bool = False
    dense: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    counts_prompt: bool = True
    max_tokens: int | None = None
    lower_case: bool = False

    def prompt(self, input_type: str | None) -> str:
        """Return the text that goes before a text of this type (`query`, `document`), or before a plain one (None)."""
        if input_type == "document":
            return next((self.prompts[name] for name in DOCUMENT_PROMPTS if name in self.prompts), "")
        return self.prompts.get(input_type or self.default_prompt, "")

    @property
    def described(self) -> str:
        """The pooling, for people."""
        how = " and ".join(self.pooling)
        return how if self.stated else f"{how} (assumed: the model has no 1_Pooling/config.json)"


def read_recipe(folder: Path) -> EmbeddingRecipe:
    """Return the recipe in a model's folder; without files, the mean of all tokens.

    Raises StorageError for damaged files, Unsupported for steps that are not known.
    """
    pooling_folder, dense = _steps(folder)
    pooling = read_json(folder, f"{pooling_folder}/config.json", MAX_CONFIG)
    about = read_json(folder, "config_sentence_transformers.json", MAX_CONFIG) or {}
    limits = read_json(folder, "sentence_bert_config.json", MAX_CONFIG) or {}
    prompts, longest = about.get("prompts"), limits.get("max_seq_length")
    return EmbeddingRecipe(
        pooling=_pooling(folder, pooling) if pooling is not None else ("mean",),
        stated=pooling is not None,
        dense=dense,
        prompts={k: v for k, v in prompts.items() if isinstance(v, str)} if isinstance(prompts, dict) else {},
        default_prompt=str(about.get("default_prompt_name") or ""),
        counts_prompt=(pooling or {}).get("include_prompt") is not False,
        max_tokens=longest if type(longest) is int and longest > 0 else None,
        lower_case=limits.get("do_lower_case") is True,
    )


def _steps(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return the folder of the pooling, and those of the dense layers."""
    pooling, dense = "1_Pooling", []
    for module in read_json_list(folder, "modules.json") or ():
        kind, path = (str(module.get(key, "")) if isinstance(module, dict) else "" for key in ("type", "path"))
        kind = kind.rpartition(".")[2]
        if kind in ("Transformer", "Normalize", "LogitScore"):
            continue
        if kind not in ("Pooling", "Dense"):
            raise Unsupported(f"modules.json asks for the step {kind[:40]!r}, which is not supported", code="MDL005")
        if not STEP_FILES.fullmatch(f"{path}/config.json"):
            raise StorageError(f"modules.json names an impossible folder: {path[:80]!r}", code="MDL003")
        if kind == "Pooling":
            pooling = path
        else:
            dense.append(path)
    return pooling, tuple(dense)


def _pooling(folder: Path, config: Mapping[str, Any]) -> tuple[Pooling, ...]:
    named = config.get("pooling_mode")
    if named is not None:
        asked = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else []
        found = [_NAMED[str(mode)] for mode in asked if str(mode) in _NAMED]
        other = [str(mode) for mode in asked if str(mode) not in _NAMED]
    else:
        found = [mode for key, mode in _MODES.items() if config.get(key) is True]
        other = [key for key in _OTHER if config.get(key) is True]
    if other or not found:
        raise Unsupported(
            f"{folder.name} pools in a way that is not supported: {', '.join(other)[:80] or 'none is named'}",
            code="MDL005",
        )
    return tuple(found)
