"""The official SQuAD v1.1 metric: exact match and F1 of predicted answers.

Rajpurkar, Zhang, Lopyrev and Liang, "SQuAD: 100,000+ Questions for Machine Comprehension of
Text", EMNLP 2016, section 6.1. Both scores compare answers after normalisation, and take the
best over the gold answers of a question.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.squad.questions import Question, SquadFormatError, read_json

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize(answer: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    Example:
      >>> normalize("The  Rock 'n' Roll!")
      'rock n roll'
    """
    bare = answer.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 where both answers normalise to the same text, else 0.0.

    Example:
      >>> exact_match("the Denver Broncos", "Denver Broncos.")
      1.0
    """
    return float(normalize(prediction) == normalize(gold))


def f1(prediction: str, gold: str) -> float:
    """The harmonic mean of precision and recall over the bags of words; 0.0 without overlap.

    Example:
      >>> f1("Denver Broncos team", "Denver Broncos")
      0.8
    """
    predicted, wanted = normalize(prediction).split(), normalize(gold).split()
    common = (Counter(predicted) & Counter(wanted)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


@dataclasses.dataclass(frozen=True)
class Score:
    """Exact match and F1 in percent over ``total`` questions.

    Attributes:
      missing: questions without a prediction; they count as wrong.
      unknown: predictions for ids that the data set does not have; they are ignored.
      without_answer: questions without any gold answer; they count as wrong.
    """

    exact_match: float
    f1: float
    total: int
    missing: int
    unknown: int
    without_answer: int


def score(predictions: Mapping[str, str], questions: Sequence[Question]) -> Score:
    """Scores predicted answers over a data set.

    Args:
      predictions: question id to answer.
      questions: the data set; every question counts, predicted or not.

    Raises:
      ValueError: if there is no question.

    Example:
      >>> from experiments.squad.questions import Answer
      >>> question = Question("7", "Tea", "From Assam.", "Where from?", (Answer(5, "Assam"),))
      >>> score({"7": "in Assam"}, [question]).exact_match
      0.0
    """
    if not questions:
        raise ValueError("there are no questions to score")
    exact, overlap, missing = 0.0, 0.0, 0
    # A plain loop: `sum` compensates its rounding since Python 3.12, the published figures do not.
    for question in questions:
        if question.id not in predictions:
            missing += 1
            continue
        exact += _best(exact_match, predictions[question.id], question)
        overlap += _best(f1, predictions[question.id], question)
    return Score(
        exact_match=100.0 * exact / len(questions),
        f1=100.0 * overlap / len(questions),
        total=len(questions),
        missing=missing,
        unknown=len(predictions.keys() - {question.id for question in questions}),
        without_answer=sum(not question.answers for question in questions),
    )


def _best(compare: Callable[[str, str], float], prediction: str, question: Question) -> float:
    return max((compare(prediction, gold.text) for gold in question.answers), default=0.0)


def read_predictions(path: str | Path) -> dict[str, str]:
    """A prediction file: a JSON object of question id to answer; ``.xz`` too.

    Raises:
      MissingDataError: if there is no such file.
      SquadFormatError: if it is damaged or is not such an object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise SquadFormatError(f"{path} should be a JSON object of question id to answer")
    for key, answer in content.items():
        if not isinstance(answer, str):
            raise SquadFormatError(f"{path}: the prediction of {key} is {answer!r}, not a string")
    return content
