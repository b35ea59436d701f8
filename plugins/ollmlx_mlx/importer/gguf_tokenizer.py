"""From the tokenizer in a GGUF file's metadata to `tokenizer.json`, `tokenizer_config.json` and the end tokens.

The way in which text is cut before the merges apply (`tokenizer.ggml.pre`) decides the ids: each kind is built exactly,
and an unknown kind is refused by name. Runs in a child process only: it imports `tokenizers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from ollmlx.errors import StorageError

CONTROL, USER_DEFINED, UNUSED, BYTE = 3, 4, 5, 6

_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One way to cut text.

    `split`: the regular expression, None for GPT-2's; `digits`: each digit alone; `ignore_merges`: whole words before
    merges; `bos`: a leading BOS; `nfc`: text is normalised first.
    """

    split: str | None = None
    digits: bool = False
    ignore_merges: bool = False
    bos: bool = False
    nfc: bool = False


_KINDS: Final = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2"), _Kind()),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _Kind(digits=True)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _Kind(_LLAMA3, ignore_merges=True, bos=True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _Kind(_QWEN2, nfc=True)),
    "tekken": _Kind(_TEKKEN, ignore_merges=True, bos=True),
}

END_NAMES: Final = frozenset(
    ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "<|end_of_text|>")
) | {"</s>"}
"""Control tokens that always end an answer: llama.cpp recognises them by name."""


@dataclass(frozen=True, slots=True)
class ImportedTokenizer:
    """`tokenizer`: to be saved as tokenizer.json; `config`: tokenizer_config.json; ids of the end and start tokens."""

    tokenizer: Tokenizer
    config: dict[str, Any]
    eos: tuple[int, ...]
    bos: int | None
    size: int


def read_tokenizer(metadata: dict[str, Any]) -> ImportedTokenizer:
    """Build the tokenizer. Raises StorageError when it is missing or of an unknown kind."""
    model = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise StorageError("it holds no tokenizer", code="MDL003")
    vocabulary = _Vocabulary(tokens, metadata)
    if model == "gpt2":
        tokenizer, bos_first = _byte_level(vocabulary, metadata)
    elif model == "llama":
        tokenizer, bos_first = _sentencepiece(vocabulary, metadata)
    else:
        raise StorageError(f"its tokenizer is of the kind {str(model)[:40]!r}; gpt2 and llama can be imported")
    bos = vocabulary.special("bos")
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", bos_first):
        start = vocabulary.tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", pair=f"{start} $A {start} $B", special_tokens=[(start, bos)]
        )
    tokenizer.add_tokens(vocabulary.added())
    return ImportedTokenizer(tokenizer, _config(vocabulary, metadata), vocabulary.ends(), bos, len(tokens))


class _Vocabulary:
    """The vocabulary, with the type of each token."""

    def __init__(self, tokens: list[str], metadata: dict[str, Any]) -> None:
        self.tokens = tokens
        self.metadata = metadata
        types = metadata.get("tokenizer.ggml.token_type")
        self.types: list[int] = types if isinstance(types, list) and len(types) == len(tokens) else [1] * len(tokens)

    def special(self, role: str) -> int | None:
        """Return the id for a role in the metadata (`eos`, `bos`, `unknown`, `padding`, `eot`, `eom`)."""
        value = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
        return value if isinstance(value, int) and 0 <= value < len(self.tokens) else None

    def ends(self) -> tuple[int, ...]:
        """Return the tokens that end an answer, the declared one first."""
        stated = [self.special(role) for role in ("eos", "eot", "eom")]
        named = [i for i, kind in enumerate(self.types) if kind == CONTROL and self.tokens[i] in END_NAMES]
        return tuple(dict.fromkeys(token for token in (*stated, *named) if token is not None))

    def added(self) -> list[AddedToken]:
        """Return the tokens that are matched in the text before it is cut, by id."""
        return [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(self.tokens, self.types, strict=True)
            if kind in (CONTROL, USER_DEFINED) and token
        ]

    def ids(self) -> dict[str, int]:
        """Return ids by token. Raises StorageError when two tokens are the same."""
        ids = {token: index for index, token in enumerate(self.tokens)}
        if len(ids) != len(self.tokens):
            raise StorageError("two tokens of its vocabulary are the same", code="MDL003")
        return ids


def _byte_level(vocabulary: _Vocabulary, metadata: dict[str, Any]) -> tuple[Tokenizer, bool]:
    name = str(metadata.get("tokenizer.ggml.pre", ""))
    kind = _KINDS.get(name)
    if kind is None:
        known = ", ".join(sorted(_KINDS))
        raise StorageError(f"its text splitting is of the kind {name[:40]!r}; known are {known}", code="MDL004")
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise StorageError("its tokenizer has no merges", code="MDL003")
    pairs = [_pair(merge) for merge in merges]
    tokenizer = _bpe(vocab=vocabulary.ids(), merges=pairs, ignore_merges=kind.ignore_merges)
    if kind.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if kind.digits else []
    if kind.split is not None:
        steps.append(pre_tokenizers.Split(Regex(kind.split), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.split is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, kind.bos


def _bpe(**parts: Any) -> Tokenizer:
    """Build the model. The library checks merges against the vocabulary, and both for whole characters."""
    try:
        return Tokenizer(BPE(**parts))
    except Exception as error:  # a bare Exception is what the library raises
        what = "a token of its vocabulary is not UTF-8" if "surrogates" in str(error) else "its merges do not fit"
        raise StorageError(f"{what}: {' '.join(str(error).split())[:200]}", code="MDL003") from error


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space or not left or not right:
        raise StorageError(f"the merge {merge[:40]!r} of its tokenizer is malformed", code="MDL003")
    return left, right


def _sentencepiece(vocabulary: _Vocabulary, metadata: dict[str, Any]) -> tuple[Tokenizer, bool]:
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(vocabulary.tokens):
        raise StorageError("its tokenizer has no scores", code="MDL003")
    ids = vocabulary.ids()
    unknown = vocabulary.special("unknown")
    tokenizer = _bpe(
        vocab=ids,
        merges=_merges(vocabulary, ids, scores),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=vocabulary.tokens[unknown] if unknown is not None else None,
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    space: list[Any] = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *space] if prefix else space)
    strip: list[Any] = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer, True


def _merges(vocabulary: _Vocabulary, ids: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return merges that give the same pieces as SentencePiece, which joins the pair with the best score."""
    plain = {
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind not in (CONTROL, BYTE, UNUSED)
    }
    ranked = []
    for token in plain:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in plain and right in plain:
                ranked.append((-scores[ids[token]], ids[token], ids[left], (left, right)))
    ranked.sort(key=lambda item: item[:3])
    return [pair for *_, pair in ranked]


def _config(vocabulary: _Vocabulary, metadata: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "model_max_length": 10**9,
    }
    for role, key in (("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")):
        token = vocabulary.special(role)
        if token is not None:
            config[key] = vocabulary.tokens[token]
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        config["chat_template"] = template
    return config
