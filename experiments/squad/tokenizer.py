"""BERT's word pieces with their places in the text (the fast tokenizer)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from experiments.errors import DamagedDataError, MissingDataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class VocabularyError(DamagedDataError):
    """A vocabulary is not BERT's, or does not belong to the weights."""


@dataclasses.dataclass(frozen=True)
class Pieces:
    """A tokenized text.

    Attributes:
      ids: int32 array ``(tokens,)``.
      offsets: int32 array ``(tokens, 2)``: the characters that each token covers, end exclusive.
    """

    ids: np.ndarray
    offsets: np.ndarray


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, its special ids, its size, and a hash of everything that decides its output."""

    backend: tokenizers.Tokenizer
    pad: int
    cls: int
    sep: int
    size: int
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> list[Pieces]:
        """Tokenizes texts, without special tokens around them."""
        encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            Pieces(
                np.asarray(e.ids, np.int32),
                np.asarray(e.offsets, np.int32).reshape(-1, 2),
            )
            for e in encoded
        ]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
      path: a ``vocab.txt``, or a folder with ``tokenizer.json`` or ``vocab.txt`` (and perhaps
        ``tokenizer_config.json``, which says whether text is lower-cased; it is by default).

    Raises:
      MissingDataError: if there is no such file.
      VocabularyError: if it is no vocabulary of BERT's.
    """
    place = Path(path)
    if (place / "tokenizer.json").is_file():
        return _finished(_from_json(place / "tokenizer.json"), place)
    vocabulary = place / "vocab.txt" if place.is_dir() else place
    if not vocabulary.is_file():
        raise MissingDataError(f"there is no tokenizer.json or vocab.txt at {place}")
    return _finished(_from_vocabulary(vocabulary, _lower_cases(vocabulary.parent)), place)


def _from_json(file: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # The package raises plain Exception for every kind of damage.
        raise VocabularyError(f"{file} cannot be read ({error}); fetch it again") from error
    backend.no_padding()
    backend.no_truncation()
    return backend


def _from_vocabulary(file: Path, lowercase: bool) -> tokenizers.Tokenizer:
    try:
        words = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{file} is not UTF-8 text ({error}); fetch it again") from error
    words = words[:-1] if words[-1] == "" else words
    if len(set(words)) != len(words):
        raise VocabularyError(f"{file} lists a word twice; it is not one of BERT's vocabularies")
    ids = {word: number for number, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def _lower_cases(folder: Path) -> bool:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return True
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")).get("do_lower_case", True))
    except (ValueError, AttributeError) as error:
        raise VocabularyError(f"{file} is not a JSON object ({error})") from error


def _finished(backend: tokenizers.Tokenizer, place: Path) -> Tokenizer:
    words = backend.get_vocab(with_added_tokens=True)
    missing = [word for word in SPECIAL if word not in words]
    if missing:
        raise VocabularyError(f"the vocabulary at {place} lacks {', '.join(missing)}")
    pad, _, cls, sep = (words[word] for word in SPECIAL)
    digest = hashlib.sha256(f"{tokenizers.__version__} {backend.to_str()}".encode())
    return Tokenizer(backend, pad, cls, sep, max(words.values()) + 1, digest.hexdigest())


def check_vocabulary(tokenizer: Tokenizer, rows: int) -> None:
    """Checks that a vocabulary belongs to a word embedding.

    The sizes must agree, but for an embedding that was padded to a multiple of 8 to 128 rows.

    Args:
      tokenizer: with the vocabulary.
      rows: of the word embedding.

    Raises:
      VocabularyError: if it has more words than the embedding has rows, or too few.
    """
    padded = {-(-tokenizer.size // block) * block for block in (1, 8, 16, 32, 64, 128)}
    if rows not in padded:
        raise VocabularyError(
            f"the vocabulary has {tokenizer.size} words and the weights have embeddings for"
            f" {rows}; take the tokenizer that came with the checkpoint"
        )
