"""Tokenizers: trained on the training split or read from a folder, and kept as the content of a tokenizer.json.

All kinds of tokenizers use the format of Hugging Face's `tokenizers`, which contains no code. A tokenizer is part of
the saved state and of the results, so that resumed runs and users of the model tokenize texts exactly as training did.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

from trainwright.api.spec.preparation import TokenizerName, TokenizerSpec
from trainwright_worker.errors import DataError, UserError
from trainwright_worker.files import Location, find

PADDING: Final = "<pad>"
UNKNOWN: Final = "<unk>"
END: Final = "<eos>"
TOKENIZER: Final = "tokenizer.json"
CHAT_TEMPLATE: Final = "chat_template.jinja"
SPECIAL: Final = (PADDING, UNKNOWN, END)
_BYTES: Final = 256
BYTE_VOCABULARY: Final = len(SPECIAL) + _BYTES
_FIELD: Final = "spec.dataset.tokenizer"


@dataclass(frozen=True)
class Tokenizer:
    """Converts texts to token ids.

    Attributes:
        definition: Content of its tokenizer.json.
        padding: Id of the padding token.
        end: Id of the token that ends a text; None if there is none.
        max_length: Maximum number of tokens per sample.
        chat_template: Jinja template that turns a conversation into a text; None if there is none. It is only kept for
            users of the results and not rendered here.
    """

    definition: str
    padding: int
    end: int | None
    max_length: int
    chat_template: str | None = None

    @cached_property
    def size(self) -> int:
        """Size of the vocabulary: the largest id plus one."""
        return max(self.tokens()) + 1

    def tokens(self) -> dict[int, str]:
        """Return the token of each id."""
        return {number: token for token, number in self._whole.get_vocab(with_added_tokens=True).items()}

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text of any length, without special tokens."""
        ids: list[int] = self._whole.encode(text, add_special_tokens=False).ids
        return ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens; uses all cores."""
        return [found.ids for found in self._whole.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_samples(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text as a separate sample, with special tokens, truncated to `max_length`."""
        return [found.ids for found in self._cut.encode_batch_fast(texts)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self._whole.decode(ids, skip_special_tokens=True)
        return text

    def agrees(self, other: "Tokenizer") -> bool:
        """Whether both convert every text to the same ids, apart from truncation."""
        return _rules(self.definition) == _rules(other.definition)

    def fits(self, other: "Tokenizer") -> bool:
        """Whether each id stands for the same token in both, so that embeddings trained with `other` can be used.

        Either may have additional tokens, and split texts by other rules.
        """
        known = other.tokens()
        return all(known.get(number, token) == token for number, token in self.tokens().items())

    def files(self) -> dict[str, str]:
        """Return the files of a folder in Hugging Face's format by name; `load_pretrained` reads it."""
        tokens = {entry["id"]: entry["content"] for entry in json.loads(self.definition)["added_tokens"]}
        named = {"pad_token": tokens.get(self.padding), "eos_token": tokens.get(self.end)}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            **{role: token for role, token in named.items() if token is not None},
        }
        chat = {} if self.chat_template is None else {CHAT_TEMPLATE: self.chat_template}
        return {TOKENIZER: self.definition, "tokenizer_config.json": json.dumps(config, indent=2), **chat}

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "definition": self.definition,
            "padding": self.padding,
            "end": self.end,
            "maxLength": self.max_length,
            "chatTemplate": self.chat_template,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return the tokenizer that `to_json` wrote."""
        return cls(raw["definition"], raw["padding"], raw["end"], raw["maxLength"], raw.get("chatTemplate"))

    @cached_property
    def _whole(self) -> Any:
        tokenizer = _load(self.definition)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _cut(self) -> Any:
        tokenizer = _load(self.definition)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        return tokenizer


def learn(spec: TokenizerSpec, name: TokenizerName, texts: Iterator[str]) -> Tokenizer:
    """Return a tokenizer trained on texts; the result is deterministic for the same texts in the same order.

    Args:
        spec: Vocabulary size and other settings.
        name: Kind of tokenizer.
        texts: Texts of the training split; read sequentially.

    Raises:
        UserError: The vocabulary is too small for this kind.
    """
    from tokenizers import Tokenizer as Native  # noqa: PLC0415 - only jobs with texts need it
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers  # noqa: PLC0415 - the same

    bytewise = name in (TokenizerName.BPE, TokenizerName.BYTE)
    least = BYTE_VOCABULARY if bytewise else len(SPECIAL) + 1
    if spec.vocabulary_size < least:
        raise UserError(f"{_FIELD}.vocabularySize: {spec.vocabulary_size}, but {name} needs at least {least}")
    native: Any = Native(models.BPE() if bytewise else models.WordLevel(unk_token=UNKNOWN))
    if spec.lowercase:
        native.normalizer = normalizers.Lowercase()
    if bytewise:
        whole_words = name == TokenizerName.BPE
        native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=whole_words)
        native.decoder = decoders.ByteLevel()
    elif name == TokenizerName.CHARACTER:
        native.pre_tokenizer = pre_tokenizers.Split(_any_character(), "isolated")
        native.decoder = decoders.Fuse()
    else:
        native.pre_tokenizer = pre_tokenizers.Whitespace()
    settings: dict[str, Any] = {"special_tokens": list(SPECIAL), "show_progress": False}
    if bytewise:
        size = spec.vocabulary_size if name == TokenizerName.BPE else least
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer: Any = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, **settings)
    else:
        trainer = trainers.WordLevelTrainer(vocab_size=spec.vocabulary_size, **settings)
    # A byte tokenizer needs no texts, because its initial alphabet already fills the vocabulary.
    native.train_from_iterator(iter(()) if name == TokenizerName.BYTE else texts, trainer)
    return Tokenizer(native.to_str(), native.token_to_id(PADDING), native.token_to_id(END), spec.max_length)


def load_pretrained(spec: TokenizerSpec, path: str, root: str, field: str) -> Tokenizer:
    """Return the tokenizer in a folder of Hugging Face's format; nothing in it is executed.

    Args:
        spec: Maximum length of samples.
        path: The folder or a file in it, as in the spec.
        root: The data root of the worker.
        field: Field of the spec that names the folder.

    Raises:
        DataError: The folder has no tokenizer.json, or it is damaged.
    """
    folder = _folder(path, root, field)
    file = folder.child(TOKENIZER)
    if not file.exists():
        hint = "save it with a fast tokenizer of transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        raise DataError(f"{field}: the folder {folder.name} contains no {TOKENIZER}", hint)
    try:
        definition = file.read().decode()
        native = _load(definition)
    except Exception as error:  # The tokenizers library raises plain Exceptions.
        raise DataError(f"{field}: {file.name} is not a valid tokenizer: {error}") from error
    tokens = {name: native.token_to_id(token) for name, token in _special_tokens(folder).items()}
    end = tokens.get("eos_token", tokens.get("sep_token"))
    padding = tokens.get("pad_token")
    if padding is None:
        padding = native.padding["pad_id"] if native.padding else end or 0
    return Tokenizer(definition, padding, end, spec.max_length, _chat_template(folder))


def holds_tokenizer(path: str, root: str, field: str) -> bool:
    """Return whether `load_pretrained` with the same arguments would find a tokenizer.

    Raises:
        DataError: The path does not exist.
    """
    return _folder(path, root, field).child(TOKENIZER).exists()


def _folder(path: str, root: str, field: str) -> Location:
    """Return the folder of a path, which may also be a file in it, such as its weights."""
    found = find(path, root, field)
    return found if found.is_folder() else found.beside(found.path.rpartition("/")[0])


def _special_tokens(folder: Location) -> dict[str, str]:
    """Return the special tokens in the folder's configuration by role."""
    tokens: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, token in _read_config(folder.child(name)).items():
            if role.endswith("_token") and (isinstance(token, str) or (isinstance(token, dict) and "content" in token)):
                tokens[role] = token if isinstance(token, str) else token["content"]
    return tokens


def _chat_template(folder: Location) -> str | None:
    """Return the chat template, from its file or from the folder's configuration."""
    file = folder.child(CHAT_TEMPLATE)
    if file.exists():
        return file.read().decode()
    found = _read_config(folder.child("tokenizer_config.json")).get("chat_template")
    if isinstance(found, list):  # Several templates with names.
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}.get("default")
    return found if isinstance(found, str) else None


def _read_config(file: Location) -> dict[str, Any]:
    """Return the content of a JSON file; empty if there is no such file."""
    if not file.exists():
        return {}
    try:
        entries: dict[str, Any] = json.loads(file.read())
    except ValueError as error:
        raise DataError(f"{file.field}: {file.name} is not valid JSON: {error}") from error
    return entries


def _rules(definition: str) -> dict[str, Any]:
    """Return the parts of a definition that determine the ids of a text."""
    rules: dict[str, Any] = json.loads(definition)
    return {name: value for name, value in rules.items() if name not in ("truncation", "padding")}


def _load(definition: str) -> Any:
    from tokenizers import Tokenizer as Native  # noqa: PLC0415 - only jobs with texts need it

    return Native.from_str(definition)


def _any_character() -> Any:
    from tokenizers import Regex  # noqa: PLC0415 - only jobs with texts need it

    return Regex(r"[\s\S]")
