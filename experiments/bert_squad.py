"""BERT on SQuAD v1.1.

``python experiments/bert_squad.py --score PREDICTIONS.json --eval-file DEV.json`` scores a file of
predictions with the official metric; both files may be ``.xz``. The last line printed is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.errors import ExperimentError
from experiments.squad.metric import read_predictions, score
from experiments.squad.questions import count_flaws, read_questions


@dataclasses.dataclass(frozen=True)
class Config:
    """What to do.

    Attributes:
      eval_file: the questions to answer, in SQuAD v1.1's JSON.
      score: a file of predictions to score.
    """

    eval_file: Path | None = None
    score: Path | None = None


def score_file(predictions: Path, eval_file: Path) -> None:
    """Prints the official scores of a prediction file; the last line is JSON."""
    questions = read_questions(eval_file)
    print(f"{len(questions)} questions: {count_flaws(questions)}")
    result = score(read_predictions(predictions), questions)
    print(
        f"{result.missing} questions without a prediction (they count as wrong), "
        f"{result.unknown} predictions for unknown ids (ignored)"
    )
    print(json.dumps(dataclasses.asdict(result)))


def main(config: Config) -> None:
    """Runs what the configuration asks for."""
    if config.score is not None:
        if config.eval_file is None:
            raise SystemExit("--score needs --eval-file, the questions that were answered")
        score_file(config.score, config.eval_file)


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except ExperimentError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
