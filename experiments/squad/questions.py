"""SQuAD v1.1 as frozen data, read from its JSON files (plain or ``.xz``) or from TFDS.

Reading checks everything and drops nothing: a file that is not SQuAD is a `SquadFormatError` that
says where it breaks; flaws that a question can have (`Flaws`) are counted, and the questions stay.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import DamagedDataError, MissingDataError


class SquadFormatError(DamagedDataError):
    """A file or a data set is not SQuAD v1.1, or is damaged."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """A gold answer: where it starts in the context (characters) and its text."""

    start: int
    text: str

    @property
    def end(self) -> int:
        """One past the last character."""
        return self.start + len(self.text)

    def lies_in(self, context: str) -> bool:
        """Whether the context holds this text at this place."""
        return bool(self.text) and self.start >= 0 and context[self.start : self.end] == self.text


@dataclasses.dataclass(frozen=True)
class Question:
    """One question, the paragraph that holds its answer, and every annotator's answer."""

    id: str
    title: str
    context: str
    text: str
    answers: tuple[Answer, ...]


@dataclasses.dataclass(frozen=True)
class Flaws:
    """How many questions have what a reader of the results should know about."""

    empty_context: int
    empty_question: int
    without_answer: int
    misplaced_answer: int

    def __str__(self) -> str:
        return (
            f"{self.empty_context} with an empty context, {self.empty_question} without words, "
            f"{self.without_answer} without an answer, "
            f"{self.misplaced_answer} with an answer that is not in the context"
        )


def count_flaws(questions: Iterable[Question]) -> Flaws:
    """Counts the flaws of a data set; one question can have several.

    Example:
      >>> count_flaws([Question("1", "Tea", " ", "Where from?", (Answer(0, "Assam"),))])
      Flaws(empty_context=1, empty_question=0, without_answer=0, misplaced_answer=1)
    """
    given = list(questions)
    return Flaws(
        empty_context=sum(not q.context.strip() for q in given),
        empty_question=sum(not q.text.strip() for q in given),
        without_answer=sum(not q.answers for q in given),
        misplaced_answer=sum(not all(a.lies_in(q.context) for a in q.answers) for q in given),
    )


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, which may be compressed (``.xz``).

    Raises:
      MissingDataError: if there is no such file.
      SquadFormatError: if it is truncated, damaged or not JSON.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingDataError(f"there is no file {file}")
    try:
        raw = file.read_bytes()
        if file.suffix == ".xz":
            raw = lzma.decompress(raw)
        return json.loads(raw)
    except (lzma.LZMAError, EOFError) as error:
        raise SquadFormatError(
            f"{file} is not a whole .xz file ({error}); fetch it again"
        ) from error
    except ValueError as error:  # covers JSONDecodeError and UnicodeDecodeError
        raise SquadFormatError(f"{file} is not JSON ({error}); fetch it again") from error


def read_questions(path: str | Path) -> tuple[Question, ...]:
    """The questions of a SQuAD v1.1 file, in the file's order.

    Args:
      path: ``train-v1.1.json``, ``dev-v1.1.json`` or the like; ``.xz`` too.

    Raises:
      MissingDataError: if there is no such file.
      SquadFormatError: if it is damaged, has another layout, or an id occurs twice.
    """
    articles = _field(read_json(path), "data", list, str(path))
    questions = tuple(
        question
        for number, article in enumerate(articles)
        for question in _article(article, f"{path}: data[{number}]")
    )
    _check_ids(questions, str(path))
    return questions


def _article(article: Any, where: str) -> Iterable[Question]:
    title = _field(article, "title", str, where)
    for number, paragraph in enumerate(_field(article, "paragraphs", list, where)):
        place = f"{where} ({title}), paragraphs[{number}]"
        context = _field(paragraph, "context", str, place)
        for entry in _field(paragraph, "qas", list, place):
            yield _question(entry, title, context, place)


def _question(entry: Any, title: str, context: str, where: str) -> Question:
    key = _field(entry, "id", str, f"{where}, qas")
    place = f"{where}, question {key}"
    answers = tuple(
        Answer(_field(a, "answer_start", int, place), _field(a, "text", str, place))
        for a in _field(entry, "answers", list, place)
    )
    return Question(key, title, context, _field(entry, "question", str, place), answers)


def _field(record: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(record, Mapping) or name not in record:
        raise SquadFormatError(f"{where}: {name!r} is missing; this is not a SQuAD v1.1 file")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SquadFormatError(
            f"{where}: {name!r} should be {kind.__name__}, is {type(value).__name__}"
        )
    return value


def _check_ids(questions: tuple[Question, ...], where: str) -> None:
    if not questions:
        raise SquadFormatError(f"{where} holds no question")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise SquadFormatError(f"{where}: question id {question.id} occurs twice")
        seen.add(question.id)


def questions_from_tfds(records: Iterable[Mapping[str, Any]]) -> tuple[Question, ...]:
    """The questions of TFDS's ``squad``, from ``tfds.data_source("squad", split=...)``.

    Args:
      records: mappings with ``id``, ``title``, ``context``, ``question`` (bytes) and ``answers``
        (``text`` and ``answer_start`` of equal length).

    Raises:
      SquadFormatError: if a record lacks a field, or an id occurs twice.
    """
    questions = tuple(_tfds_question(r, f"TFDS record {i}") for i, r in enumerate(records))
    _check_ids(questions, "the TFDS data set")
    return questions


def _tfds_question(record: Mapping[str, Any], where: str) -> Question:
    try:
        given = record["answers"]
        pairs = zip(given["answer_start"], given["text"], strict=True)
        answers = tuple(Answer(int(start), _text(text)) for start, text in pairs)
        key, title, context, text = (
            _text(record[name]) for name in ("id", "title", "context", "question")
        )
    except (KeyError, ValueError, TypeError) as error:
        raise SquadFormatError(f"{where} is not one of TFDS's 'squad' ({error!r})") from error
    return Question(key, title, context, text, answers)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def content_hash(questions: Iterable[Question]) -> str:
    """SHA-256 of everything the questions hold, the same wherever they were read from."""
    digest = hashlib.sha256()
    for question in questions:
        record = json.dumps(dataclasses.astuple(question), ensure_ascii=True)
        digest.update(record.encode() + b"\n")
    return digest.hexdigest()
