"""A model's answers to a whole data set, and their official scores."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from experiments.squad.features import Features, windows_batch
from experiments.squad.metric import score
from experiments.squad.predictions import Candidate, best_answers, texts
from experiments.squad.questions import Question
from experiments.training import parallel as par
from experiments.training.parallel import Parallel

STEP = 128  # Batches are cut to a multiple of this many tokens: few compilations, little padding.
INPUTS = ("input_ids", "token_types", "attention_mask")
Answers = dict[str, tuple[Candidate, ...]]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Answers questions with a model and scores the answers.

    Attributes:
      questions: the data set.
      features: its windows.
      parallel: the devices.
      batch_size: windows at once, on all devices together.
      max_tokens: the longest answer, in tokens.
      latest: the answers of the last two models that were evaluated, older first.
      compiled: the function that was compiled last, by its model.
    """

    questions: Sequence[Question]
    features: Features
    parallel: Parallel
    batch_size: int
    max_tokens: int = 30
    latest: collections.deque[Answers] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=2), repr=False
    )
    compiled: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict, repr=False)

    def __call__(self, model: Any, variables: Any) -> dict[str, float]:
        """Scores in percent: ``exact_match``, ``f1``; and ``questions``, their number.

        Args:
          model: a `BertForQuestionAnswering`, or what has its ``apply``.
          variables: its variables, replicated as `Parallel` says.
        """
        logits = self.logits(model, variables)
        answers = best_answers(self.questions, self.features, logits, self.max_tokens)
        self.latest.append(answers)
        found = score(texts(answers), self.questions)
        return {"exact_match": found.exact_match, "f1": found.f1, "questions": found.total}

    def logits(self, model: Any, variables: Any) -> np.ndarray:
        """Start and end logits of every window, float32 ``(windows, length, 2)``; 0 on padding.

        Windows are taken by length, and a batch is only as long as its longest needs.

        Args:
          model: as for the call.
          variables: as for the call.
        """
        parallel, features = self.parallel, self.features
        if model not in self.compiled:
            self.compiled.clear()  # A narrower model has taken the old one's place.
            self.compiled[model] = par.compile_outputs(parallel, _apply(model))
        logits = np.zeros((features.windows, int(features.length), 2), np.float32)
        for rows, length in _batches(features, self.batch_size, parallel.devices):
            share = len(rows) // parallel.hosts
            mine = rows[parallel.host * share :][:share]
            batch = windows_batch(features, mine)
            trimmed = par.shard_batch(parallel, {n: batch[n][:, :length] for n in INPUTS})
            found = par.local_rows(parallel, self.compiled[model](variables, trimmed))
            if parallel.hosts > 1:
                found = multihost_utils.process_allgather(found).reshape(-1, *found.shape[1:])
            logits[rows, :length] = found
        return logits


def _apply(model: Any) -> Callable[[Any, Any], jax.Array]:
    def apply(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return jnp.asarray(model.apply(variables, *(batch[name] for name in INPUTS), train=False))

    return apply


def _batches(features: Features, batch_size: int, devices: int) -> Iterator[tuple[np.ndarray, int]]:
    """Numbers of windows, and how many tokens they need; the last ones may occur twice."""
    size = -(-min(batch_size, features.windows) // devices) * devices
    used = used_tokens(features)
    order = np.argsort(used, kind="stable")
    for start in range(0, len(order), size):
        rows = np.resize(order[start : start + size], size)
        longest = -(-int(used[rows].max()) // STEP) * STEP
        yield rows, min(longest, int(features.length))


def used_tokens(features: Features) -> np.ndarray:
    """How many tokens of each window are no padding, ``(windows,)``."""
    questions = np.diff(features.question_bounds)[features.window_question]
    return questions + features.window_count + 3


def count_differences(one: Answers, other: Answers) -> int:
    """The number of questions that two models answer with different texts."""
    left, right = texts(one), texts(other)
    return sum(left[key] != right[key] for key in left)
