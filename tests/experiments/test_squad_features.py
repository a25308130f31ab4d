"""Tokens, windows and answers: nothing is lost on the way there, and little on the way back."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.errors import MissingDataError, OptionError
from experiments.squad.cache import cached_features
from experiments.squad.features import (
    Features,
    WindowSizes,
    cut_context,
    make_features,
    windows_batch,
)
from experiments.squad.questions import Answer, Question, read_questions
from experiments.squad.recovery import recover_gold_answers
from experiments.squad.tokenizer import VocabularyError, check_vocabulary, load_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "tea", "from", "assam", "##s", "?", "where", "a"]
SIZES = WindowSizes(length=12, stride=3, question=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    file.write_text("\n".join(WORDS) + "\n")
    return load_tokenizer(file)


def make(tokenizer, context, answer, text="where from?"):
    question = Question("q", "t", context, text, (answer,) if answer else ())
    return question, make_features([question], tokenizer, SIZES)


def words(features, row):
    batch = windows_batch(features, [row])
    assert (batch["attention_mask"] == (batch["input_ids"] != 0)).all()
    return " ".join(WORDS[i] for i in batch["input_ids"][0] if i)


def test_a_window_is_laid_out_as_bert_was_trained(tokenizer):
    _, features = make(tokenizer, "Teas from a", Answer(5, "from"))
    batch = windows_batch(features, [0])
    assert words(features, 0) == "[CLS] where from ? [SEP] tea ##s from a [SEP]"
    np.testing.assert_array_equal(batch["token_types"][0], [0] * 5 + [1] * 5 + [0] * 2)
    np.testing.assert_array_equal(batch["answer"], [[7, 7]])
    np.testing.assert_array_equal(features.offsets(0), [[0, 3], [3, 4], [5, 9], [10, 11]])


def test_a_long_context_is_cut_and_the_answer_kept_where_it_is_whole(tokenizer):
    context = "tea from assam a tea from assam a tea"
    _, features = make(tokenizer, context, Answer(context.rindex("from"), "from assam"))
    shown = [words(features, row).split("[SEP]")[1].split() for row in range(features.windows)]
    assert shown == [context.split()[:6], context.split()[3:]]
    # Five tokens stand before the context; the answer is its sixth and seventh word.
    np.testing.assert_array_equal(features.window_answer, [[0, 0], [5 + 2, 5 + 3]])


@given(tokens=st.integers(0, 900), room=st.integers(1, 400), stride=st.integers(1, 400))
def test_windows_cover_every_token_and_all_but_the_last_are_full(tokens, room, stride):
    stride = min(stride, room)
    sizes = WindowSizes(length=room + 4, stride=stride, question=1)
    windows = list(cut_context(tokens, room, sizes))
    assert {t for first, count in windows for t in range(first, first + count)} == set(
        range(tokens)
    )
    assert all(count == room for _, count in windows[:-1])
    assert all(b[0] - a[0] == stride for a, b in itertools.pairwise(windows))


def test_a_long_question_is_cut_and_an_empty_context_has_no_window(tokenizer):
    _, features = make(tokenizer, "tea", None, text="where where where where from tea?")
    assert words(features, 0) == "[CLS] where where where where [SEP] tea [SEP]"
    assert make(tokenizer, " \n", None)[1].windows == 0


@pytest.mark.parametrize("answer", [None, Answer(0, "from"), Answer(-1, "?"), Answer(3, "")])
def test_an_answer_that_is_not_there_points_at_the_beginning(tokenizer, answer):
    _, features = make(tokenizer, "tea from a", answer)
    np.testing.assert_array_equal(features.window_answer, [[0, 0]])


def test_an_answer_within_a_word_takes_the_whole_word(tokenizer):
    question, features = make(tokenizer, "tea from assam", Answer(11, "sa"))
    recovery = recover_gold_answers([question], features)
    assert recovery.exceptions == (("q", "sa", "assam"),)
    assert (recovery.in_one_window, recovery.share) == (1, 0.0)


@pytest.mark.parametrize(
    "sizes", [{"length": 66}, {"stride": 0}, {"question": 0}, {"length": 100, "stride": 34}]
)
def test_sizes_that_lose_tokens_are_refused(sizes):
    with pytest.raises(OptionError, match="leave"):
        WindowSizes(**sizes)


def test_gold_answers_survive_the_features(shared_data):
    """Every dev question whose answer lies in one window, and the answers that change."""
    questions = read_questions(shared_data / "squad" / "dev-v1.1.json.xz")
    tokenizer = load_tokenizer(shared_data / "bert" / "bert-base-uncased-vocab.txt")
    features = make_features(questions, tokenizer, WindowSizes())
    recovery = recover_gold_answers(questions, features)
    print(
        f"{recovery.in_one_window} of {recovery.questions} answers lie in one window,"
        f" {100 * recovery.share:.2f} % of them come back letter by letter; the others:"
    )
    for key, gold, found in recovery.exceptions:
        print(f"  {key} {gold!r} -> {found!r}")
    assert recovery.in_one_window == len(questions) == 10570
    assert recovery.share >= 0.995
    # A search without a limit finds the long ones too; what remains begins or ends in a word.
    unlimited = recover_gold_answers(questions, features, max_tokens=100)
    assert len(unlimited.exceptions) < len(recovery.exceptions)
    assert all(gold in found for _, gold, found in unlimited.exceptions)


def same(left: Features, right: Features):
    for field in dataclasses.fields(Features):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


def test_the_cache_gives_the_same_features_and_heals(tokenizer, tmp_path, capsys):
    question = Question("q", "t", "tea from assam", "where?", (Answer(9, "assam"),))
    fresh = make_features([question], tokenizer, SIZES)
    same(cached_features([question], tokenizer, SIZES, tmp_path), fresh)
    (file,) = tmp_path.iterdir()
    same(cached_features([question], tokenizer, SIZES, tmp_path), fresh)
    for damage in (file.read_bytes()[:-30], b"", b"text", _other_arrays()):
        file.write_bytes(damage)
        same(cached_features([question], tokenizer, SIZES, tmp_path), fresh)
        assert "is damaged" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]


def _other_arrays():
    buffer = io.BytesIO()
    np.savez(buffer, something=np.zeros(3))
    return buffer.getvalue()


def test_the_cache_tells_data_sizes_and_tokenizers_apart(tokenizer, tmp_path):
    question = Question("q", "t", "tea from assam", "where?", (Answer(9, "assam"),))
    other = tmp_path / "other" / "vocab.txt"
    other.parent.mkdir()
    other.write_text("\n".join([*WORDS, "tea?"]))
    cases = [
        ([question], tokenizer, SIZES),
        ([dataclasses.replace(question, text="where from?")], tokenizer, SIZES),
        ([question], tokenizer, dataclasses.replace(SIZES, stride=2)),
        ([question], load_tokenizer(other), SIZES),
    ]
    for number, case in enumerate(cases, 1):
        cached_features(*case, tmp_path / "cache")
        assert len(list((tmp_path / "cache").iterdir())) == number


def test_a_failing_write_leaves_nothing_behind(tokenizer, tmp_path, monkeypatch):
    question = Question("q", "t", "tea", "where?", ())
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        cached_features([question], tokenizer, SIZES, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [len(WORDS), 16, 64, 128])
def test_vocabularies_may_be_padded(tokenizer, rows):
    check_vocabulary(tokenizer, rows)


@pytest.mark.parametrize("rows", [len(WORDS) - 1, len(WORDS) + 1, 30522])
def test_a_vocabulary_of_other_weights_is_named(tokenizer, rows):
    with pytest.raises(VocabularyError, match=f"11 words .* {rows}"):
        check_vocabulary(tokenizer, rows)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\ntea\n", r"lacks \[SEP\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\ntea\ntea\n", "twice"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_damaged_vocabularies_are_named(tmp_path, content, found):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(VocabularyError, match=found):
        load_tokenizer(tmp_path)


def test_a_damaged_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="no tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_cased_checkpoints_keep_their_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "Tea"]))
    assert [WORDS[i] for i in load_tokenizer(tmp_path)(["Tea"])[0].ids] == ["tea"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path)(["Tea"])[0].ids == [len(WORDS)]
