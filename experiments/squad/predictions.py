"""Answers from logits: the best spans of every question, over all of its windows.

The score of a span is its start logit plus its end logit (Devlin et al. 2019, section 4.2). All
spans of up to `max_tokens` tokens are compared, not only those of the highest starts and ends. A
word that lies in several windows can start an answer only in the one that shows most of what is
around it, as in BERT's SQuAD code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.squad.features import Features
from experiments.squad.questions import Question


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An answer that the model considers.

    Attributes:
      text: the answer, cut from the context.
      start, end: its characters in the context, end exclusive.
      score: start logit + end logit.
      probability: softmax of the scores over the candidates of a question.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Span:
    """Tokens of a context, first and last, and their score."""

    first: int
    last: int
    score: float


def best_answers(
    questions: Sequence[Question],
    features: Features,
    logits: np.ndarray,
    max_tokens: int = 30,
    best: int = 20,
) -> dict[str, tuple[Candidate, ...]]:
    """The best distinct answers of each question, best first.

    Args:
      questions: the data set that the features were made of.
      features: its windows.
      logits: of every window, ``(windows, length, 2)``: start and end.
      max_tokens: the longest answer, in tokens.
      best: how many spans to consider for each window, and answers to keep for each question.

    Returns:
      Question id to candidates; a question whose context has no tokens has none.

    Raises:
      ValueError: if the logits do not fit the features, or are not finite.
    """
    expected = (features.windows, int(features.length), 2)
    if logits.shape != expected:
        raise ValueError(f"the logits have shape {logits.shape}, the features {expected}")
    if not np.isfinite(logits).all():
        raise ValueError("the model's logits hold NaN or infinity; its weights have diverged")
    bounds = np.searchsorted(features.window_question, np.arange(len(questions) + 1))
    answers = {}
    for number, question in enumerate(questions):
        windows = range(bounds[number], bounds[number + 1])
        spans = _question_spans(features, windows, logits, max_tokens, best)
        context = question.context
        offsets = _context_offsets(features, number)
        answers[question.id] = _candidates(context, offsets, spans, best)
    return answers


def texts(answers: Mapping[str, Sequence[Candidate]]) -> dict[str, str]:
    """The best answer of each question, empty where there is none: a prediction file's content."""
    return {key: found[0].text if found else "" for key, found in answers.items()}


def _question_spans(
    features: Features, windows: range, logits: np.ndarray, max_tokens: int, best: int
) -> list[Span]:
    starts_here = _most_context(features, windows)
    found: list[Span] = []
    for row, window in enumerate(windows):
        low, count = features.context_start(window), int(features.window_count[window])
        part = logits[window, low : low + count].astype(np.float64)
        first = int(features.window_first[window])
        allowed = starts_here[first : first + count] == row
        for start, end, score in _best_spans(part, allowed, max_tokens, best):
            found.append(Span(first + start, first + end, score))
    # Equal scores: the earlier and shorter answer, so that results do not hang on sorting.
    return sorted(found, key=lambda span: (-span.score, span.first, span.last))


def _best_spans(
    logits: np.ndarray, allowed: np.ndarray, max_tokens: int, best: int
) -> list[tuple[int, int, float]]:
    """The best (start, end, score) of one window; logits ``(tokens, 2)``."""
    ends = np.concatenate([logits[:, 1], np.full(max_tokens - 1, -np.inf)])
    reach = np.lib.stride_tricks.sliding_window_view(ends, max_tokens)
    starts = np.where(allowed, logits[:, 0], -np.inf)
    # The best spans have their starts among those whose own best span is best.
    rows = np.argsort(-(starts + reach.max(axis=1)), kind="stable")[:best]
    scores = (starts[rows, None] + reach[rows]).ravel()
    return [
        (int(rows[i // max_tokens]), int(rows[i // max_tokens] + i % max_tokens), float(scores[i]))
        for i in np.argsort(-scores, kind="stable")[:best]
        if np.isfinite(scores[i])
    ]


def _most_context(features: Features, windows: range) -> np.ndarray:
    """For each token of a context: which of its windows shows most around it.

    The score is BERT's: the smaller of the context to the left and to the right, plus 0.01 times
    the window's size.
    """
    firsts, counts = features.window_first[windows], features.window_count[windows]
    tokens = np.arange(int((firsts + counts).max(initial=0)))
    left = tokens[None] - firsts[:, None]
    right = (firsts + counts - 1)[:, None] - tokens[None]
    score = np.minimum(left, right) + 0.01 * counts[:, None]
    inside = (left >= 0) & (right >= 0)
    return np.argmax(np.where(inside, score, -np.inf), axis=0) if len(windows) else tokens


def _context_offsets(features: Features, question: int) -> np.ndarray:
    context = features.question_context[question]
    low, high = features.context_bounds[context : context + 2]
    return features.context_offsets[low:high]


def _candidates(
    context: str, offsets: np.ndarray, spans: Sequence[Span], best: int
) -> tuple[Candidate, ...]:
    distinct: dict[str, tuple[int, int, float]] = {}
    for span in spans:
        start, end = int(offsets[span.first, 0]), int(offsets[span.last, 1])
        distinct.setdefault(context[start:end], (start, end, span.score))
        if len(distinct) == best:
            break
    scores = np.asarray([score for _, _, score in distinct.values()])
    weights = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
    return tuple(
        Candidate(text, start, end, score, float(weight / weights.sum()))
        for (text, (start, end, score)), weight in zip(distinct.items(), weights, strict=True)
    )
