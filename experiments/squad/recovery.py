"""How many gold answers survive being made into tokens and back: the features' own ceiling.

Logits that are sure of the gold tokens go through the n-best search like a model's would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from experiments.squad.features import Features
from experiments.squad.predictions import best_answers, texts
from experiments.squad.questions import Question


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What came back.

    Attributes:
      questions: all of them.
      in_one_window: those whose first answer lies in at least one window.
      exceptions: of these, the ones that came back as another text: (id, gold, found).
    """

    questions: int
    in_one_window: int
    exceptions: tuple[tuple[str, str, str], ...]

    @property
    def share(self) -> float:
        """Of the questions in one window: how many came back letter by letter."""
        return 1.0 - len(self.exceptions) / max(self.in_one_window, 1)


def recover_gold_answers(
    questions: Sequence[Question], features: Features, max_tokens: int = 30
) -> Recovery:
    """Pushes every question's first answer through the features and back.

    Args:
      questions: the data set.
      features: its windows.
      max_tokens: the longest answer that the search considers, in tokens.
    """
    found = texts(best_answers(questions, features, _sure_logits(features), max_tokens, best=1))
    inside = np.zeros(len(questions), bool)
    inside[features.window_question[features.window_answer[:, 1] > 0]] = True
    gold = {q.id: q.answers[0].text for q, here in zip(questions, inside, strict=True) if here}
    wrong = tuple((key, text, found[key]) for key, text in gold.items() if found[key] != text)
    return Recovery(len(questions), len(gold), wrong)


def _sure_logits(features: Features) -> np.ndarray:
    """1 at the answer's first and last token, 0 elsewhere, of every window."""
    logits = np.zeros((features.windows, int(features.length), 2), np.float32)
    rows = np.flatnonzero(features.window_answer[:, 1] > 0)
    for side in (0, 1):
        logits[rows, features.window_answer[rows, side], side] = 1.0
    return logits
