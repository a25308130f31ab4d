"""SQuAD files and TFDS records: the same questions, flaws counted, damage named."""

import json
import lzma

import pytest

from experiments.errors import MissingDataError
from experiments.squad.questions import (
    Answer,
    Flaws,
    Question,
    SquadFormatError,
    content_hash,
    count_flaws,
    questions_from_tfds,
    read_questions,
)

CONTEXT = "Tea came from Assam."


def squad(**changes):
    """A SQuAD file's content with one question; changes replace fields wherever they are."""
    answers = changes.get("answers", [{"answer_start": 14, "text": "Assam"}])
    entry = {"id": "q1", "question": "Where from?", "answers": answers}
    entry = {k: changes.get(k, v) for k, v in entry.items() if changes.get(k, v) is not None}
    paragraph = {"context": changes.get("context", CONTEXT), "qas": changes.get("qas", [entry])}
    return {"version": "1.1", "data": [{"title": "Tea", "paragraphs": [paragraph]}]}


def read(tmp_path, content):
    file = tmp_path / "squad.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_questions(file)


def test_a_question_is_read(tmp_path):
    expected = Question("q1", "Tea", CONTEXT, "Where from?", (Answer(14, "Assam"),))
    assert read(tmp_path, squad()) == (expected,)


@pytest.mark.parametrize("name", ["dev-v1.1", "train-v1.1-subset11877"])
def test_real_files_are_whole_and_flawless(shared_data, name):
    questions = read_questions(shared_data / "squad" / f"{name}.json.xz")
    assert len(questions) == {"dev-v1.1": 10570}.get(name, 11877)
    assert count_flaws(questions) == Flaws(0, 0, 0, 0)
    assert len({q.context for q in questions}) == {"dev-v1.1": 2067}.get(name, 2429)


def test_tfds_gives_the_same_questions(shared_data):
    """TFDS's own features, filled by its own code, read back as `tfds.data_source` would."""
    questions = read_questions(shared_data / "squad" / "dev-v1.1.json.xz")[:200]
    records = [
        {
            "id": q.id.encode(),
            "title": q.title.encode(),
            "context": q.context.encode(),
            "question": q.text.encode(),
            "answers": {
                "answer_start": [a.start for a in q.answers],
                "text": [a.text.encode() for a in q.answers],
            },
        }
        for q in questions
    ]
    assert questions_from_tfds(records) == questions
    assert content_hash(questions_from_tfds(records)) == content_hash(questions)


def test_every_change_changes_the_hash(tmp_path):
    changes: list[dict] = [
        {},
        {"id": "q2"},
        {"question": "Why?"},
        {"context": CONTEXT + " "},
        {"answers": []},
    ]
    assert len({content_hash(read(tmp_path, squad(**change))) for change in changes}) == 5


@pytest.mark.parametrize(
    ("changes", "flaws"),
    [
        ({"context": " \n"}, Flaws(1, 0, 0, 1)),
        ({"question": ""}, Flaws(0, 1, 0, 0)),
        ({"answers": []}, Flaws(0, 0, 1, 0)),
        ({"answers": [{"answer_start": 13, "text": "Assam"}]}, Flaws(0, 0, 0, 1)),
        ({"answers": [{"answer_start": -6, "text": "Assam"}]}, Flaws(0, 0, 0, 1)),
        ({"answers": [{"answer_start": 3, "text": ""}]}, Flaws(0, 0, 0, 1)),
    ],
)
def test_flaws_are_counted_and_nothing_is_dropped(tmp_path, changes, flaws):
    questions = read(tmp_path, squad(**changes))
    assert len(questions) == 1
    assert count_flaws(questions) == flaws


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "'data' is missing"),
        ({"data": 3}, "'data' should be list, is int"),
        ({"data": []}, "holds no question"),
        (squad(id=None), "qas: 'id' is missing"),
        (squad(question=None), "question q1: 'question' is missing"),
        (squad(answers=[{"text": "Assam"}]), "question q1: 'answer_start' is missing"),
        (squad(answers=[{"text": "A", "answer_start": "3"}]), "'answer_start' should be int"),
        (squad(context=7), r"paragraphs\[0\]: 'context' should be str"),
        (squad(qas=squad()["data"][0]["paragraphs"][0]["qas"] * 2), "q1 occurs twice"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, content, words):
    with pytest.raises(SquadFormatError, match=words):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match="nowhere"):
        read_questions(tmp_path / "nowhere.json")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"no" + raw])
def test_a_damaged_xz_is_named(tmp_path, damage):
    file = tmp_path / "squad.json.xz"
    file.write_bytes(damage(lzma.compress(json.dumps(squad()).encode())))
    with pytest.raises(SquadFormatError, match=r"not a whole \.xz"):
        read_questions(file)


@pytest.mark.parametrize("change", [{"answers": {}}, {"id": None, "answers": None}])
def test_damaged_tfds_records_are_named(change):
    record: dict = {"id": b"1", "title": b"", "context": b"c", "question": b"q", "answers": {}}
    with pytest.raises(SquadFormatError, match="TFDS record 0"):
        questions_from_tfds([{**record, **change}])
