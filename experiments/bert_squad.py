"""BERT on SQuAD v1.1: the paper's transformer row, in five sparsities.

``python experiments/bert_squad.py --row 90`` fine-tunes BERT-base with HSPG, prunes it, compares
the slim network's answers with the full one's on the whole development set, exports it, and writes
``results/bert_squad_90.json``. The paper's repository reports:

  row (most FFN units that may die, %)     10     30     50     70     90
  parameters, without embeddings (%)     91.0   76.2   66.7   53.3   40.0
  exact match                            75.0   72.3   71.9   71.4   70.9
  F1                                     84.1   82.1   82.0   81.5   81.1

Expected time: 18 passes over 88,000 windows of 384 tokens take most of a day on one A100-class GPU
in bfloat16 (``--dtype bfloat16``); on two cores, months. ``--smoke`` shows the whole path in about
a minute, with a tiny BERT and few questions.

``--mode target --target-group-sparsity 0.5`` prunes exactly that share, ``--mode dense`` nothing;
``--base adamw`` puts AdamW in place of SGD. ``--checkpoint`` takes any BERT, as a folder or a name.

``python experiments/bert_squad.py --score PREDICTIONS.json --eval-file DEV.json`` scores a file of
predictions with the official metric, and ``--check-features`` shows how many gold answers survive
being made into tokens and back. The last line printed is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

import oto_jax
from experiments.data.folders import data_folder
from experiments.errors import OptionError
from experiments.latency import median_latency_ms
from experiments.results import format_json, write_results, write_whole
from experiments.squad.cache import cached_features
from experiments.squad.evaluation import Answers, Evaluator, count_differences
from experiments.squad.export import export_model, load_exported
from experiments.squad.features import WindowSizes
from experiments.squad.files import load_questions
from experiments.squad.metric import read_predictions, score
from experiments.squad.narrowing import SlimFunction, train_and_narrow
from experiments.squad.predictions import texts
from experiments.squad.questions import count_flaws, read_questions
from experiments.squad.recipe import ROWS, SquadRecipe
from experiments.squad.recovery import recover_gold_answers
from experiments.squad.task import SquadOptions, load_shape, squad_task
from experiments.training.options import RunOptions, to_json
from experiments.training.parallel import Parallel
from experiments.training.script import (
    leave,
    parse,
    result_file,
    run_folder_of,
    run_script,
    run_training,
    start,
)
from experiments.training.task import Task
from oto_jax.models.bert_config import BertConfigError
from oto_jax.models.bert_weights import BertWeightsError

NAME = "bert_squad"


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tunes a BERT on SQuAD with HSPG and prunes it; the defaults are the paper's.

    Attributes:
      recipe: hyperparameters.
      data: the model and the questions.
      run: how the run is carried out.
      score: only score this file of predictions; needs ``--eval-file``.
      check_features: only show how many gold answers survive being made into tokens and back.
    """

    recipe: SquadRecipe = dataclasses.field(default_factory=SquadRecipe)
    data: SquadOptions = dataclasses.field(default_factory=SquadOptions)
    run: RunOptions = dataclasses.field(default_factory=RunOptions)
    score: Path | None = None
    check_features: bool = False


def make_task(config: Config, parallel: Parallel) -> Task:
    """What this script trains."""
    return squad_task(config.recipe, config.data, config.run, parallel)


def main() -> None:
    """Trains, prunes, compares; or does what `Config` says it does instead."""
    config = parse(Config(), smoke_config(), __doc__)
    try:
        if config.score is not None:
            print_scores(config.score, config.data.eval_file)
        elif config.check_features:
            print_recovery(config.data)
        else:
            train(config)
    except (BertConfigError, BertWeightsError) as error:
        leave(error)


def print_scores(predictions: Path, eval_file: Path | None) -> None:
    """Prints the official scores of a prediction file; the last line is JSON."""
    if eval_file is None:
        raise OptionError("--score needs --eval-file, the questions that were answered")
    questions = read_questions(eval_file)
    print(f"{len(questions)} questions: {count_flaws(questions)}")
    found = score(read_predictions(predictions), questions)
    print(
        f"{found.missing} questions without a prediction (they count as wrong), "
        f"{found.unknown} predictions for unknown ids (ignored)"
    )
    print(json.dumps(dataclasses.asdict(found)))


def print_recovery(data: SquadOptions) -> None:
    """Prints which gold answers of the evaluation's questions the features lose."""
    _, tokenizer = load_shape(data)
    questions = load_questions("dev", data.eval_file)
    features = cached_features(questions, tokenizer, data.windows, data.cache)
    found = recover_gold_answers(questions, features, data.max_answer)
    for key, gold, text in found.exceptions:
        print(f"{key}: {gold!r} -> {text!r}")
    figures = {
        "questions": found.questions,
        "in_one_window": found.in_one_window,
        "recovered": found.share,
    }
    print(json.dumps(figures))


def train(config: Config) -> None:
    """Trains (or goes on training), prunes, compares, exports."""
    name = f"{NAME}_{config.recipe.row}" if config.recipe.mode == "faithful" else NAME
    run = run_folder_of(name, config)
    trained = _narrowed if config.recipe.groups == "residual" else _pruned
    ended = trained(config, name, run)
    if ended is not None and jax.process_index() == 0:
        finish(config, *ended, name, run)


Ended = tuple[Task, dict[str, Any], SlimFunction]


def _pruned(config: Config, name: str, run: Path) -> Ended | None:
    made: list[Task] = []

    def remembered(config: Config, parallel: Parallel) -> Task:
        made.append(make_task(config, parallel))
        return made[-1]

    figures = run_training(name, config, remembered)
    if figures is None:
        return None
    pruned = oto_jax.load(run / "slim", made[-1].model)
    return made[-1], figures, SlimFunction(pruned.model.apply, pruned.variables)


def _narrowed(config: Config, name: str, run: Path) -> Ended | None:
    parallel = start(config.run)
    task = make_task(config, parallel)
    record = {"script": name, **to_json(config)}
    results = result_file(name, config)
    ended = train_and_narrow(record, task, config.run, parallel, run, results)
    return None if ended is None else (task, *ended)


def finish(
    config: Config, task: Task, figures: dict[str, Any], slim: SlimFunction, name: str, run: Path
) -> None:
    """What comes after every script's end: answers, latency, the exported model."""
    assert isinstance(task.evaluate, Evaluator)
    older, newer = task.evaluate.latest
    write_answers(run, {"full": older, "slim": newer})
    full_size, slim_size = (
        size_without_embeddings(held) for held in (task.variables(0), slim.variables)
    )
    more = {
        "parameters_without_embeddings": {
            "full": full_size,
            "slim": slim_size,
            "kept": slim_size / full_size,
        },
        "differing_answers": count_differences(older, newer),
        "latency_ms": latencies(task, slim),
        "export_worst_difference": export(run / "slim.stablehlo", task, slim),
    }
    if config.recipe.mode == "faithful":
        more["paper"] = dataclasses.asdict(ROWS[config.recipe.row])
    results = result_file(name, config)
    write_results(results, {**figures, **more}, seed=config.run.seed)
    print(json.dumps({**{k: v for k, v in figures.items() if k != "config"}, **more}))


def size_without_embeddings(variables: Any) -> int:
    """Parameters but for those of the embeddings, as the paper counts BERT's."""
    encoder = variables["params"]["encoder"]
    return oto_jax.count_parameters(variables["params"]) - oto_jax.count_parameters(
        encoder["embeddings"]
    )


def write_answers(run: Path, answers: dict[str, Answers]) -> None:
    """Writes ``predictions_*.json`` in the official format, and the n-best answers."""
    for which, found in answers.items():
        write_whole(run / f"predictions_{which}.json", format_json(texts(found)) + "\n")
        listed = {key: [dataclasses.asdict(c) for c in best] for key, best in found.items()}
        write_whole(run / f"nbest_{which}.json", json.dumps(listed) + "\n")


def latencies(task: Task, slim: SlimFunction) -> dict[str, float]:
    """Median milliseconds for one window, full and slim; weights do not matter for the time."""
    inputs = [jax.device_put(array[:1]) for array in task.inputs]

    def call(model: Any, variables: Any) -> Any:
        run, held = jax.jit(model.apply), jax.device_put(variables)
        return lambda: run(held, *inputs)

    full = call(task.model, task.variables(0))
    return median_latency_ms({"full": full, "slim": call(slim, slim.variables)})


def export(path: Path, task: Task, slim: SlimFunction) -> float:
    """Exports the slim model and runs the file: its worst difference over batches of 1 and 2."""
    export_model(path, slim, slim.variables, task.inputs[0].shape[1])
    run = load_exported(path)
    worst = 0.0
    for size in (1, 2):
        inputs: Sequence[Any] = [array[:size] for array in task.inputs]
        expected = jax.jit(slim.apply)(slim.variables, *inputs)
        worst = max(worst, float(np.max(np.abs(run(*inputs) - expected))))
    return worst


def smoke_config() -> Config:
    """A tiny BERT from random weights on a few questions: every step of the real thing."""
    bert = data_folder() / "bert"
    return Config(
        recipe=SquadRecipe(
            base="adamw",
            learning_rate=1e-3,
            epochs=3,
            passes_per_epoch=1,
            batch_size=8,
            epsilon_every=1,
            row=70,
        ),
        data=SquadOptions(
            checkpoint=None,
            config_file=bert / "bert-tiny-config.json",
            vocabulary=bert / "bert-base-uncased-vocab.txt",
            train_questions=80,
            eval_questions=50,
            windows=WindowSizes(length=128, stride=64, question=32),
        ),
        run=RunOptions(smoke=True, log_every=5, checkpoint_every=10),
    )


if __name__ == "__main__":
    run_script(main)
