"""The n-best search finds what an exhaustive search finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.squad.features import WindowSizes, make_features
from experiments.squad.predictions import best_answers, texts
from experiments.squad.questions import Question
from experiments.squad.tokenizer import load_tokenizer

WORDS = [f"w{i}" for i in range(14)]
SIZES = WindowSizes(length=12, stride=3, question=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]))
    return load_tokenizer(file)


def exhaustive(features, logits, max_tokens):
    """Every span of every window by itself: score to (first token, last token)."""
    best = {}
    tokens = int((features.window_first + features.window_count).max())
    for token in range(tokens):  # The window that shows most around the span's first token.
        around = []
        for window in range(features.windows):
            first, count = features.window_first[window], features.window_count[window]
            left, right = token - first, first + count - 1 - token
            if min(left, right) >= 0:
                around.append((-(min(left, right) + 0.01 * count), window))
        window = min(around)[1]
        first, count = features.window_first[window], features.window_count[window]
        for last in range(token, min(token + max_tokens, first + count)):
            at = features.context_start(window) - first
            best[token, last] = float(logits[window, token + at, 0]) + float(
                logits[window, last + at, 1]
            )
    return best


@settings(max_examples=60)
@given(
    words=st.integers(1, 14),
    max_tokens=st.integers(1, 6),
    best=st.sampled_from([1, 2, 3, 25]),
    seed=st.integers(0, 10**6),
)
def test_the_search_is_exact(tokenizer, words, max_tokens, best, seed):
    question = Question("q", "t", " ".join(WORDS[:words]), "w1 w2", ())
    features = make_features([question], tokenizer, SIZES)
    logits = np.random.default_rng(seed).normal(size=(features.windows, 12, 2)).astype(np.float32)
    found = best_answers([question], features, logits, max_tokens, best)["q"]
    everything = exhaustive(features, logits, max_tokens)
    expected = sorted(everything, key=lambda span: -everything[span])[:best]
    assert [c.text for c in found] == [" ".join(WORDS[a : b + 1]) for a, b in expected]
    assert [c.score for c in found] == pytest.approx([everything[span] for span in expected])
    assert sum(c.probability for c in found) == pytest.approx(1.0)
    assert all(question.context[c.start : c.end] == c.text for c in found)


def test_equal_scores_go_to_the_earlier_and_shorter_answer(tokenizer):
    question = Question("q", "t", "w1 w2 w3", "w0", ())
    features = make_features([question], tokenizer, SIZES)
    answers = best_answers([question], features, np.zeros((1, 12, 2), np.float32))
    assert [c.text for c in answers["q"]][:4] == ["w1", "w1 w2", "w1 w2 w3", "w2"]


def test_equal_texts_are_one_candidate(tokenizer):
    question = Question("q", "t", "w1 w1 w1", "w0", ())
    features = make_features([question], tokenizer, SIZES)
    answers = best_answers([question], features, np.zeros((1, 12, 2), np.float32))["q"]
    assert [c.text for c in answers] == ["w1", "w1 w1", "w1 w1 w1"]


def test_tokens_outside_the_context_are_never_answers(tokenizer):
    question = Question("q", "t", "w1 w2", "w3 w4", ())
    features = make_features([question], tokenizer, SIZES)
    logits = np.zeros((1, 12, 2), np.float32)
    logits[:, [0, 1, 2, 3, 6, 7]] = 100.0
    answers = best_answers([question], features, logits)
    assert {c.text for c in answers["q"]} == {"w1", "w2", "w1 w2"}


def test_an_empty_context_is_answered_with_nothing(tokenizer):
    questions = [Question("1", "t", " ", "w1", ()), Question("2", "t", "w5", "w1", ())]
    features = make_features(questions, tokenizer, SIZES)
    answers = best_answers(questions, features, np.zeros((1, 12, 2), np.float32))
    assert texts(answers) == {"1": "", "2": "w5"}


@pytest.mark.parametrize(
    ("logits", "words"),
    [(np.zeros((2, 12, 2)), "shape"), (np.full((1, 12, 2), np.nan), "NaN")],
)
def test_unusable_logits_are_named(tokenizer, logits, words):
    question = Question("q", "t", "w1", "w0", ())
    features = make_features([question], tokenizer, SIZES)
    with pytest.raises(ValueError, match=words):
        best_answers([question], features, logits)
