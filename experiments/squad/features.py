"""Questions as windows of tokens, and answers as tokens.

A window is ``[CLS] question [SEP] part of the context [SEP]``, padded to one length. A context
that does not fit is cut into overlapping windows, each `stride` tokens further on (Devlin et al.
2019, their SQuAD code). Texts are tokenized once and windows are put together when they are
asked for, so features take a few bytes per word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.errors import OptionError
from experiments.squad.questions import Answer, Question
from experiments.squad.tokenizer import Pieces, Tokenizer


@dataclasses.dataclass(frozen=True)
class WindowSizes:
    """How texts are cut, in tokens.

    Attributes:
      length: of a window.
      stride: how much further on the next window of a context starts.
      question: the most that a question may take; a longer one is cut off at its end.
    """

    length: int = 384
    stride: int = 128
    question: int = 64

    def __post_init__(self) -> None:
        room = self.length - self.question - 3
        if min(self.question, self.stride) < 1 or self.stride > room:
            raise OptionError(
                f"windows of {self.length} tokens with questions of up to {self.question} leave"
                f" {room} for the context, fewer than the stride of {self.stride}; tokens would"
                " be left out"
            )


@dataclasses.dataclass(frozen=True)
class Features:
    """The windows of a data set, as flat arrays.

    Attributes:
      context_ids, context_offsets: the tokens of all contexts, one after the other, and the
        characters they cover: ``(tokens,)``, ``(tokens, 2)``.
      context_bounds: where each context begins and the last one ends, ``(contexts + 1,)``.
      question_ids, question_bounds: likewise of the questions (cut to their longest).
      question_context: the context of each question, ``(questions,)``.
      window_question: the question of each window, ``(windows,)``, ascending.
      window_first, window_count: the window's part of the context, in the context's tokens.
      window_answer: the first and last token of the answer, counted from the window's beginning,
        ``(windows, 2)``; (0, 0), the [CLS], where the answer is not in the window.
      special: the ids of padding, [CLS] and [SEP].
      length: of a window, padding included.
    """

    context_ids: np.ndarray
    context_offsets: np.ndarray
    context_bounds: np.ndarray
    question_ids: np.ndarray
    question_bounds: np.ndarray
    question_context: np.ndarray
    window_question: np.ndarray
    window_first: np.ndarray
    window_count: np.ndarray
    window_answer: np.ndarray
    special: np.ndarray
    length: np.ndarray

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return len(self.window_question)

    def context_start(self, window: int) -> int:
        """The place of the first context token in a window."""
        question = self.window_question[window]
        return 2 + int(self.question_bounds[question + 1] - self.question_bounds[question])

    def offsets(self, window: int) -> np.ndarray:
        """The characters that the window's context tokens cover, ``(count, 2)``."""
        context = self.question_context[self.window_question[window]]
        first = self.context_bounds[context] + self.window_first[window]
        return self.context_offsets[first : first + self.window_count[window]]


def make_features(
    questions: Sequence[Question], tokenizer: Tokenizer, sizes: WindowSizes
) -> Features:
    """Cuts questions and their contexts into windows, and finds the first answer of each.

    Every question gets its windows, whatever is wrong with it; only a context without a single
    token has none. `report` counts such cases.
    """
    contexts = list(dict.fromkeys(question.context for question in questions))
    number_of = {context: number for number, context in enumerate(contexts)}
    pieces = tokenizer(contexts)
    asked = [_cut(p, sizes.question) for p in tokenizer([q.text for q in questions])]
    belongs = np.asarray([number_of[q.context] for q in questions], np.int32)
    windows = [
        (number, *window)
        for number, question in enumerate(questions)
        for window in _windows(question, pieces[belongs[number]], len(asked[number].ids), sizes)
    ]
    table = np.asarray(windows, np.int32).reshape(-1, 5)
    return Features(
        context_ids=_joined([p.ids for p in pieces]),
        context_offsets=_joined([p.offsets for p in pieces]).reshape(-1, 2),
        context_bounds=_bounds(pieces),
        question_ids=_joined([p.ids for p in asked]),
        question_bounds=_bounds(asked),
        question_context=belongs,
        window_question=table[:, 0],
        window_first=table[:, 1],
        window_count=table[:, 2],
        window_answer=table[:, 3:],
        special=np.asarray([tokenizer.pad, tokenizer.cls, tokenizer.sep], np.int32),
        length=np.asarray(sizes.length, np.int32),
    )


def _cut(pieces: Pieces, longest: int) -> Pieces:
    return Pieces(pieces.ids[:longest], pieces.offsets[:longest])


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.int32), *(a.ravel() for a in arrays)])


def _bounds(pieces: Sequence[Pieces]) -> np.ndarray:
    return np.cumsum([0, *(len(p.ids) for p in pieces)]).astype(np.int64)


def _windows(
    question: Question, context: Pieces, question_tokens: int, sizes: WindowSizes
) -> Iterator[tuple[int, int, int, int]]:
    """First token, number of tokens, and the answer's place of each window of one question."""
    span = answer_tokens(context.offsets, question)
    for first, count in cut_context(len(context.ids), sizes.length - question_tokens - 3, sizes):
        inside = span is not None and first <= span[0] and span[1] < first + count
        shift = 2 + question_tokens - first
        answer = (span[0] + shift, span[1] + shift) if span is not None and inside else (0, 0)
        yield first, count, *answer


def cut_context(tokens: int, room: int, sizes: WindowSizes) -> Iterator[tuple[int, int]]:
    """First token and number of tokens of each window of a context.

    Example:
      >>> list(cut_context(700, 317, WindowSizes()))
      [(0, 317), (128, 317), (256, 317), (384, 316)]
    """
    first = 0
    while first < tokens:
        yield first, min(room, tokens - first)
        if first + room >= tokens:
            return
        first += sizes.stride


def answer_tokens(offsets: np.ndarray, question: Question) -> tuple[int, int] | None:
    """The first and last token of a question's first answer, or None where it has no place.

    Where an answer begins or ends within a token, the whole token belongs to it.
    """
    if not question.answers or not question.answers[0].lies_in(question.context):
        return None
    return span_tokens(offsets, question.answers[0])


def span_tokens(offsets: np.ndarray, answer: Answer) -> tuple[int, int] | None:
    """The first and last token that share a character with an answer, or None."""
    touching = np.flatnonzero((offsets[:, 1] > answer.start) & (offsets[:, 0] < answer.end))
    return (int(touching[0]), int(touching[-1])) if len(touching) else None


def windows_batch(features: Features, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Windows as the model takes them.

    Args:
      features: of a data set.
      rows: numbers of windows.

    Returns:
      ``input_ids``, ``token_types``, ``attention_mask``: int32 ``(rows, length)``;
      ``answer``: int32 ``(rows, 2)``, see `Features`.
    """
    shape = (len(rows), int(features.length))
    pad, cls, sep = (int(number) for number in features.special)
    ids, types, mask = (
        np.full(shape, pad, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
    )
    for row, window in enumerate(rows):
        question = features.window_question[window]
        low, high = features.question_bounds[question : question + 2]
        start, count = features.context_start(window), features.window_count[window]
        first = features.context_bounds[features.question_context[question]]
        first += features.window_first[window]
        ids[row, 0], ids[row, start - 1], ids[row, start + count] = cls, sep, sep
        ids[row, 1 : start - 1] = features.question_ids[low:high]
        ids[row, start : start + count] = features.context_ids[first : first + count]
        types[row, start : start + count + 1] = 1
        mask[row, : start + count + 1] = 1
    answer = features.window_answer[np.asarray(rows, np.int64)]
    return {"input_ids": ids, "token_types": types, "attention_mask": mask, "answer": answer}
