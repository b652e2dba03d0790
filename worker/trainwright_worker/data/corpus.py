"""Texts with their targets, and their conversion to tokens: tokenizer, samples of one text each, blocks of texts."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.preparation import TokenizerName, TokenizerSpec
from trainwright.api.spec.source import Target
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Array, Ragged, Scratch
from trainwright_worker.data.sequences import Blocks, Tokens
from trainwright_worker.data.texts import TextStore
from trainwright_worker.data.tokens import Tokenizer, holds_tokenizer, learn, load_pretrained
from trainwright_worker.errors import DataError, UserError

_CHARACTERS: Final = 1 << 19
"""Characters tokenized at once: enough to use all cores, with little memory."""
_WHOLE: Final = 1 << 16
"""Characters of a long text that are tokenized as one piece."""
_LEARNT_WHOLE: Final = 1 << 14
"""Characters of a piece when a tokenizer is trained, which holds hundreds of pieces in memory."""
_SMALL_VOCABULARY: Final = 1 << 16
_FIELD: Final = "spec.dataset.tokenizer"


@dataclass(frozen=True)
class Texts:
    """Texts before tokenization.

    Attributes:
        store: The store of all texts.
        rows: Indices of these texts in the store ([samples] int64).
        targets: Class of each sample ([samples] int64); zeros if the text itself is the target.
        ends: Whether a document ends with each text, after which a language model gets an end token ([samples] bool).
        origins: File and row of each text; None for a language model, whose samples are blocks of many texts.
    """

    store: TextStore
    rows: Tensor
    targets: Tensor
    ends: Tensor
    origins: Origins | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def select(self, indices: Tensor) -> "Texts":
        """Return the texts at `indices` ([k] int64)."""
        origins = None if self.origins is None else self.origins.select(indices)
        return replace(
            self, rows=self.rows[indices], targets=self.targets[indices], ends=self.ends[indices], origins=origins
        )

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:
        """Return the tokenizer of the texts."""
        return Measured(tokenizer=make_tokenizer(spec, self, root))

    def process(self, spec: TrainingJobSpec, measured: Measured, name: str, scratch: Scratch) -> Tokens | Blocks:
        """Return the texts as tokens: blocks of concatenated texts for a language model, else one sample per text."""
        if measured.tokenizer is None:
            raise TypeError("texts were measured without a tokenizer")
        if spec.traits.target == Target.TOKENS:
            return to_blocks(self, measured.tokenizer, scratch, name)
        scaled = replace(self, targets=measured.normalization.apply_to_targets(self.targets))
        return to_samples(scaled, measured.tokenizer, scratch, fixed=spec.training.compile)

    def read(self) -> Iterator[str]:
        """Yield these texts in the order of the store."""
        wanted = torch.zeros(int(self.rows.max()) + 1, dtype=torch.bool)
        wanted[self.rows] = True
        return itertools.compress(self.store.texts(), wanted.tolist())

    def read_wholes(self, least: int = _WHOLE) -> Iterator[tuple[str, bool]]:
        """Yield documents as texts with whether each ends there, in pieces of at least `least` characters.

        Fragments of a document are joined, because some tokenizers add a token at the start of every piece.
        """
        begun: list[str] = []
        length = 0
        for text, ends in zip(self.read(), self.ends[self.rows.argsort()].tolist(), strict=True):
            begun.append(text)
            length += len(text)
            if ends or length >= least:
                yield "".join(begun), ends
                begun, length = [], 0
        if begun:
            yield "".join(begun), False


def chosen(store: TextStore, rows: Tensor, targets: Tensor, origins: Origins) -> Texts:
    """Return some texts of a store, each of which is a document.

    Args:
        store: All texts.
        rows: Indices of the chosen texts ([samples] int64).
        targets: Class or value of each.
        origins: File and row of each.
    """
    return Texts(store, rows, targets, torch.ones(len(rows), dtype=torch.bool), origins)


def without_blank_texts(store: TextStore, origin: str) -> tuple[Texts, tuple[str, ...]]:
    """Return the texts of a store that are not blank, for a language model, and notes about the blank ones.

    Args:
        store: All texts.
        origin: Name of the data for messages.

    Raises:
        DataError: All texts are blank.
    """
    found = torch.from_numpy(np.fromiter((bool(text.strip()) for text in store.texts()), bool))
    rows = found.nonzero().flatten()
    if not len(rows):
        raise DataError(f"{store.field}: {origin} contains no text")
    blank = len(found) - len(rows)
    notes = (f"{store.field}: {blank:,} of {len(found):,} texts in {origin} are blank and left out",) if blank else ()
    zeros = torch.zeros(len(rows), dtype=torch.int64)
    return Texts(store, rows, zeros, torch.ones(len(rows), dtype=torch.bool)), notes


def make_tokenizer(spec: TrainingJobSpec, train: Texts, root: str) -> Tokenizer:
    """Return the tokenizer of the spec: read from a folder, or trained on the training split.

    Raises:
        DataError: The folder contains no tokenizer.
        UserError: The vocabulary is too small, or the pretrained model uses another tokenizer.
    """
    wanted = spec.dataset.tokenizer or TokenizerSpec()
    own = _tokenizer_of_model(spec, wanted, root)
    if wanted.path is not None:
        made = load_pretrained(wanted, wanted.path, root, f"{_FIELD}.path")
    elif own is not None and wanted.name is None:
        return own
    else:
        usual = TokenizerName.BPE if spec.traits.target == Target.TOKENS else TokenizerName.WORD
        # The texts of a plain text file are fragments, which may begin or end inside a word.
        made = learn(wanted, wanted.name or usual, (text for text, _ in train.read_wholes(_LEARNT_WHOLE)))
    if own is not None and not made.fits(own):
        asked = f"path: {wanted.path}" if wanted.path is not None else f"name: {wanted.name}"
        raise UserError(
            f"{_FIELD}.{asked}, but the weights of spec.model.pretrained, {spec.model.pretrained}, were trained with "
            "another tokenizer: its tokens have other ids",
            "remove it: the tokenizer beside those weights is the default",
        )
    return made


def _tokenizer_of_model(spec: TrainingJobSpec, wanted: TokenizerSpec, root: str) -> Tokenizer | None:
    """Return the tokenizer beside the pretrained weights; None if there is none."""
    path, field = spec.model.pretrained, "spec.model.pretrained"
    if path is None or not (takes_tokenizer_of_model(spec) or holds_tokenizer(path, root, field)):
        return None
    return load_pretrained(wanted, path, root, field)


def takes_tokenizer_of_model(spec: TrainingJobSpec) -> bool:
    """Return whether the tokenizer beside the pretrained weights is required, as for models of transformers.

    Other models use it if it exists.
    """
    wanted = spec.dataset.tokenizer or TokenizerSpec()
    pretrained = spec.model.pretrained is not None and str(spec.model.name).startswith("hf:")
    return pretrained and wanted.path is None and wanted.name is None


def to_samples(texts: Texts, tokenizer: Tokenizer, scratch: Scratch, *, fixed: bool) -> Tokens:
    """Return one sample per text, truncated to the tokenizer's maximum length.

    Raises:
        DataError: A text has no tokens.
    """
    key = ["samples", texts.store.stamp(), tokenizer.to_json()]
    wholes = ((text, False) for text in texts.store.texts())
    ids = _write(scratch, key, tokenizer, lambda: _encode(wholes, tokenizer.encode_samples, []))
    empty = np.flatnonzero(ids.lengths() == 0)
    if len(empty):
        raise DataError(f"{texts.store.field}: the text number {empty[0]} (from 0) has no tokens")
    return Tokens(
        ids, texts.rows, texts.targets, tokenizer.padding, tokenizer.max_length, fixed, texts.origins, texts.store
    )


def to_blocks(texts: Texts, tokenizer: Tokenizer, scratch: Scratch, part: str) -> Blocks:
    """Return the concatenated texts, cut into blocks of the tokenizer's length.

    Raises:
        UserError: The texts are too short for one block.
    """
    order = texts.rows.argsort()
    chosen = hashlib.sha256(torch.stack([texts.rows[order], texts.ends[order]]).numpy().tobytes()).hexdigest()
    key = ["blocks", texts.store.stamp(), tokenizer.to_json(), chosen]
    end = [] if tokenizer.end is None else [tokenizer.end]
    stream = _write(scratch, key, tokenizer, lambda: _encode(texts.read_wholes(), tokenizer.encode_all, end))
    blocks = Blocks(stream.values, tokenizer.max_length)
    if not len(blocks):
        raise UserError(
            f"spec.dataset.tokenizer.maxLength: {blocks.length}, but the {part} split has only {len(blocks.ids)} tokens",
            "lower it, or change spec.dataset.split",
        )
    return blocks


def _write(scratch: Scratch, key: object, tokenizer: Tokenizer, rows: Callable[[], Iterator[Array]]) -> Ragged:
    dtype = "uint16" if tokenizer.size <= _SMALL_VOCABULARY else "int32"
    return scratch.ragged([key, dtype], (dtype,), lambda: ((row,) for row in rows()))[0]


def _encode(
    texts: Iterator[tuple[str, bool]], encode: Callable[[list[str]], list[list[int]]], end: list[int]
) -> Iterator[Array]:
    """Yield the token ids of each text, with the end token where a document ends."""
    some: list[tuple[str, bool]] = []
    characters = 0

    def encoded() -> Iterator[Array]:
        for ids, (_, ends) in zip(encode([text for text, _ in some]), some, strict=True):
            yield np.array(ids + end if ends else ids, dtype=np.int64)

    for text, ends in texts:
        some.append((text, ends))
        characters += len(text)
        if characters >= _CHARACTERS:
            yield from encoded()
            some, characters = [], 0
    yield from encoded()
