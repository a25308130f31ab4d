"""Fine-tuning a BERT on SQuAD v1.1, as the training loop sees it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data.batches import training_batches
from experiments.data.folders import ROOT
from experiments.errors import OptionError
from experiments.pretrained.checkpoint import find_folder, load_bert, read_config
from experiments.squad.cache import cached_features
from experiments.squad.evaluation import INPUTS, Evaluator
from experiments.squad.features import Features, WindowSizes, windows_batch
from experiments.squad.files import load_questions
from experiments.squad.questions import Question, count_flaws
from experiments.squad.recipe import SquadRecipe, optimizer
from experiments.squad.tokenizer import Tokenizer, check_vocabulary, load_tokenizer
from experiments.training import parallel as par
from experiments.training.options import RunOptions
from experiments.training.parallel import Parallel
from experiments.training.state import Batch, Metrics, Variables
from experiments.training.task import Task
from oto_jax.models.bert import BertForQuestionAnswering
from oto_jax.models.bert_config import BertConfig, Compute


@dataclasses.dataclass(frozen=True)
class SquadOptions:
    """The model, the questions, and how they become windows.

    Attributes:
      checkpoint: a folder or a name on the hub, of any BERT; None with a ``config_file``.
      config_file: a ``config.json``: start from random weights of this shape.
      vocabulary: a ``vocab.txt`` or a tokenizer's folder; default: the checkpoint's.
      train_file: the questions to train on, SQuAD v1.1's JSON, ``.xz`` too; default: where
        `experiments.squad.files.load_questions` looks.
      eval_file: the questions to answer, likewise.
      train_questions: train on so many of them, taken at even distances; None: all.
      eval_questions: answer so many of them, likewise.
      windows: how texts are cut.
      max_answer: the longest answer, in tokens.
      eval_batch: windows answered at once, on all devices together.
      dtype: what the model computes in; parameters stay float32.
      attention: how attention is computed, see `oto_jax.models.bert_config.Compute`.
      remat: compute activations again in the backward pass, to save memory.
      cache: where features are kept.
    """

    checkpoint: str | None = "google-bert/bert-base-uncased"
    config_file: Path | None = None
    vocabulary: Path | None = None
    train_file: Path | None = None
    eval_file: Path | None = None
    train_questions: int | None = None
    eval_questions: int | None = None
    windows: WindowSizes = dataclasses.field(default_factory=WindowSizes)
    max_answer: int = 30
    eval_batch: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["einsum", "xla", "cudnn"] = "einsum"
    remat: bool = False
    cache: Path = ROOT / "runs" / "squad-features"

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.config_file is not None:
            raise OptionError(
                "--checkpoint and --config-file (which --smoke sets) exclude each other; add"
                " --config-file None or --checkpoint None"
            )

    @property
    def compute(self) -> Compute:
        """How the model computes."""
        return Compute(jnp.dtype(self.dtype), jnp.float32, self.attention, self.remat)


def squad_task(
    recipe: SquadRecipe, data: SquadOptions, run: RunOptions, parallel: Parallel
) -> Task:
    """Fine-tuning on SQuAD.

    Args:
      recipe: hyperparameters.
      data: which model and questions.
      run: the run's options.
      parallel: the devices.

    Returns:
      The task; its ``evaluate`` is an `Evaluator`.
    """
    par.check_batch_size(parallel, recipe.batch_size, run.accumulate)
    config, tokenizer = load_shape(data)
    model = BertForQuestionAnswering(config, data.compute)
    train = training_features(data, tokenizer)
    per_pass = max(train.windows // recipe.batch_size, 1)
    steps_per_epoch = recipe.passes_per_epoch * per_pass

    def batches(start: int) -> Iterator[Batch]:
        return squad_batches(train, recipe.batch_size, run.seed, start, parallel)

    evaluate = squad_evaluator(data, tokenizer, parallel)
    example = windows_batch(evaluate.features, np.arange(2) % evaluate.features.windows)
    return Task(
        model=model,
        variables=functools.cache(functools.partial(_initial, model, data)),
        inputs=tuple(example[name] for name in INPUTS),
        call={"train": False},
        zigs_options=recipe.zigs_options,
        optimizer=lambda zigs: optimizer(recipe, zigs, steps_per_epoch),
        loss=span_loss,
        batches=batches,
        evaluate=evaluate,
        batch_size=recipe.batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=recipe.epochs * steps_per_epoch,
    )


def load_shape(data: SquadOptions) -> tuple[BertConfig, Tokenizer]:
    """The model's configuration and its tokenizer, which are checked to belong together."""
    if data.checkpoint is not None:
        folder = find_folder(data.checkpoint)
        config, place = read_config(folder / "config.json"), data.vocabulary or folder
    elif data.config_file is not None and data.vocabulary is not None:
        config, place = read_config(data.config_file), data.vocabulary
    else:
        raise OptionError("without --checkpoint, --config-file and --vocabulary are needed")
    if data.windows.length > config.positions:
        raise OptionError(
            f"--length {data.windows.length} is more than the {config.positions} positions of"
            " this BERT"
        )
    tokenizer = load_tokenizer(place)
    check_vocabulary(tokenizer, config.vocabulary)
    return config, tokenizer


def _initial(model: BertForQuestionAnswering, data: SquadOptions, seed: int) -> Variables:
    if data.checkpoint is None:
        ids = jnp.zeros((1, 8), jnp.int32)
        return dict(jax.jit(model.init)(jax.random.key(seed), ids))
    weights = load_bert(data.checkpoint, head_seed=seed).weights
    print(
        f"Drawn at random, for the checkpoint lacks them: {', '.join(weights.new) or 'none'};"
        f" of no use here: {', '.join(weights.unused) or 'none'}"
    )
    return {"params": weights.params}


def training_features(data: SquadOptions, tokenizer: Tokenizer) -> Features:
    """The windows to train on; prints how many questions have flaws."""
    questions = _taken(load_questions("train", data.train_file), data.train_questions)
    usable = [q for q in questions if q.answers and q.answers[0].lies_in(q.context)]
    print(
        f"Training on {len(usable)} of {len(questions)} questions ({count_flaws(questions)};"
        " what has no answer in its context is left out)"
    )
    if not usable:
        raise OptionError("none of the training questions has an answer in its context")
    features = cached_features(usable, tokenizer, data.windows, data.cache)
    without = int(np.sum(features.window_answer[:, 1] == 0))
    print(f"{features.windows} windows, {without} of them without their question's answer")
    return features


def squad_evaluator(data: SquadOptions, tokenizer: Tokenizer, parallel: Parallel) -> Evaluator:
    """What answers the evaluation's questions; prints how many of them have flaws."""
    questions = _taken(load_questions("dev", data.eval_file), data.eval_questions)
    features = cached_features(questions, tokenizer, data.windows, data.cache)
    shown = len(np.unique(features.window_question))
    print(
        f"Answering {len(questions)} questions ({count_flaws(questions)};"
        f" {len(questions) - shown} without any context are answered with nothing)"
    )
    return Evaluator(questions, features, parallel, data.eval_batch, data.max_answer)


def _taken(questions: Sequence[Question], count: int | None) -> Sequence[Question]:
    """So many questions at even distances, in order; files are ordered by article."""
    if count is None or count >= len(questions):
        return questions
    if count < 1:
        raise OptionError("--train-questions and --eval-questions must be at least 1")
    return [questions[i * len(questions) // count] for i in range(count)]


def squad_batches(
    features: Features, batch_size: int, seed: int, start: int, parallel: Parallel
) -> Iterator[Batch]:
    """This host's endless training batches from a step on: the model's inputs and ``answer``."""
    numbers = {"window": np.arange(features.windows)}
    rows = training_batches(numbers, batch_size, seed, start, parallel.host, parallel.hosts)
    return (windows_batch(features, batch["window"]) for batch in rows)


def span_loss(
    model: nn.Module, variables: Variables, batch: Batch, key: jax.Array
) -> tuple[jax.Array, tuple[Variables, Metrics]]:
    """Mean cross-entropy of the answer's first and last token (Devlin et al. 2019, section 4.2).

    Padding is no candidate. Windows without the answer have [CLS] as theirs.
    """
    inputs = (batch[name] for name in INPUTS)
    logits = jnp.asarray(model.apply(variables, *inputs, train=True, rngs={"dropout": key}))
    masked = jnp.where(batch["attention_mask"][..., None] > 0, logits, -1e9)
    losses = optax.softmax_cross_entropy_with_integer_labels(
        jnp.moveaxis(masked, -1, 1), batch["answer"]
    )
    both = jnp.all(jnp.argmax(masked, axis=1) == batch["answer"], axis=-1)
    return losses.mean(), ({}, {"exact_spans": 100 * jnp.mean(both)})
