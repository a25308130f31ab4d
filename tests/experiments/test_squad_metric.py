"""The official metric, on real predictions with published scores and on its own laws."""

import json
import lzma
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.squad.metric import exact_match, f1, normalize, read_predictions, score
from experiments.squad.questions import Answer, Question, SquadFormatError, read_questions

ROOT = Path(__file__).resolve().parents[2]
answers = st.text(st.sampled_from(string.ascii_letters + " .,'-$é\u2013"), max_size=30)
words = st.lists(st.sampled_from(["the", "a", "An", "broncos", "1990s", "é", "Denver,"]))


def question(*texts: str, key: str = "q") -> Question:
    return Question(key, "t", " ".join(texts), "?", tuple(Answer(0, text) for text in texts))


def run_score(predictions: Path, questions: Path) -> subprocess.CompletedProcess:
    arguments = ["--score", str(predictions), "--eval-file", str(questions)]
    script = [sys.executable, "experiments/bert_squad.py", *arguments]
    return subprocess.run(script, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("name", "exact", "overlap", "missing", "unknown"),
    [
        ("bert_ensemble", 86.20624408703878, 92.19557978351145, 0, 0),
        ("logreg", 40.14191106906339, 50.98153647324461, 13, 28),
    ],
)
def test_published_scores_to_all_digits(shared_data, name, exact, overlap, missing, unknown):
    result = score(
        read_predictions(shared_data / "squad" / f"dev_predictions_{name}.json.xz"),
        read_questions(shared_data / "squad" / "dev-v1.1.json.xz"),
    )
    assert (result.exact_match, result.f1, result.total) == (exact, overlap, 10570)
    assert (result.missing, result.unknown) == (missing, unknown)


def test_command_line_scores_plain_and_compressed_files(shared_data, tmp_path):
    plain = tmp_path / "predictions.json"
    plain.write_bytes(
        lzma.decompress((shared_data / "squad" / "dev_predictions_logreg.json.xz").read_bytes())
    )
    for predictions in (plain, shared_data / "squad" / "dev_predictions_logreg.json.xz"):
        done = run_score(predictions, shared_data / "squad" / "dev-v1.1.json.xz")
        last = json.loads(done.stdout.splitlines()[-1])
        assert (last["exact_match"], last["f1"]) == (40.14191106906339, 50.98153647324461)
        assert "13 questions without a prediction" in done.stdout


def test_command_line_names_a_damaged_file(tmp_path):
    damaged = tmp_path / "dev.json"
    damaged.write_text('{"data": [{"title": "T", "paragraphs": [{"context": "C"}]}]}')
    predictions = tmp_path / "predictions.json"
    predictions.write_text("{}")
    done = run_score(predictions, damaged)
    assert done.returncode == 1
    assert "SquadFormatError" in done.stderr
    assert "paragraphs[0]: 'qas' is missing" in done.stderr
    assert "Traceback" not in done.stderr


@given(answers)
def test_normalization_is_idempotent_on_its_words(text):
    once = normalize(text)
    assert normalize(once).split() == [w for w in once.split() if w not in ("a", "an", "the")]
    assert once == once.lower()
    assert not set(once) & set(string.punctuation)


@given(answers)
def test_an_answer_matches_itself_and_its_disguise(text):
    assert exact_match(text, text) == 1.0
    assert exact_match(f"The {text.upper()}!", text.upper()) == 1.0
    assert f1(text, text) == (1.0 if normalize(text) else 0.0)


@given(words, words)
def test_f1_is_symmetric_bounded_and_one_only_for_equal_bags(left, right):
    value = f1(" ".join(left), " ".join(right))
    assert value == pytest.approx(f1(" ".join(right), " ".join(left)), abs=1e-15)
    assert 0.0 <= value <= 1.0
    bags = [sorted(normalize(" ".join(side)).split()) for side in (left, right)]
    assert (value == 1.0) == (bags[0] == bags[1] and bool(bags[0]))


def test_words_count_as_often_as_they_occur():
    # 2 of the 3 predicted words are wanted, and 2 of the 4 wanted ones predicted.
    assert f1("new new york", "new york city hall") == pytest.approx(
        2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)
    )


def test_the_best_gold_answer_counts():
    result = score({"q": "Santa Clara"}, [question("Levi's Stadium", "Santa Clara")])
    assert (result.exact_match, result.f1) == (100.0, 100.0)


def test_missing_unknown_and_unanswerable_are_counted():
    questions = [question("a cat", key="1"), question("dog", key="2"), question(key="3")]
    result = score({"1": "cat", "3": "x", "9": "y"}, questions)
    assert result.exact_match == pytest.approx(100 / 3)
    assert (result.missing, result.unknown, result.without_answer) == (1, 1, 1)


def test_no_questions_is_an_error():
    with pytest.raises(ValueError, match="no questions"):
        score({}, [])


@pytest.mark.parametrize("content", ["[]", '{"1": 3}', "{", ""])
def test_damaged_predictions(tmp_path, content):
    file = tmp_path / "predictions.json"
    file.write_text(content)
    with pytest.raises(SquadFormatError, match=r"predictions\.json"):
        read_predictions(file)
