"""The search finds the fields that have to change, where a run says what breaks."""

import hypothesis.strategies as st
from hypothesis import given

from oto_jax.prune.plan import ArrayPlan, Cut, Override, Plan, SpacePlan
from oto_jax.prune.search import (
    Trial,
    cannot_rebuild,
    search,
    shrinking_sizes,
    width_proposals,
)


def puzzle(answer):
    """A model of modules in a row; each breaks unless its fields have the right values."""

    def attempt(chosen):
        values = {(override.path, override.field): override.value for override in chosen}
        for path, wanted in answer.items():
            given = {field: values.get((path, field), 0) for field in wanted}
            if given != wanted:
                return Trial(broke_at=path, error=ValueError(path[0]))
        return Trial(result=chosen)

    return attempt


def alone(path):
    """Every module is of its own kind."""
    return path


fields = st.dictionaries(
    st.sampled_from([("a",), ("b",), ("c",)]), st.integers(0, 2), min_size=1, max_size=3
)


@given(st.lists(fields, min_size=1, max_size=3))
def test_finds_the_answer_among_decoys(rows):
    answer = {(f"layer{number}",): row for number, row in enumerate(rows)}

    def proposals(path):
        return [
            Override(path, field, value)
            for field in (("a",), ("b",), ("c",))
            for value in (1, 2)
            if path
        ]

    trial = search(puzzle(answer), proposals, alone)
    assert trial.error is None
    found = {(override.path, override.field): override.value for override in trial.result}
    for path, row in answer.items():
        assert {field: found.get((path, field), 0) for field in row} == row


@given(fields, st.integers(1, 40))
def test_a_deep_stack_costs_one_run_a_block(row, blocks):
    attempts = []
    solve = puzzle({("blocks", str(number)): row for number in range(blocks)})

    def attempt(chosen):
        attempts.append(chosen)
        return solve(chosen)

    def proposals(path):
        names = (("a",), ("b",), ("c",)) if path[1:] else ()
        return [Override(path, field, value) for field in names for value in (1, 2)]

    assert search(attempt, proposals, lambda path: path[0]).error is None
    assert len(attempts) <= 2 * 27 + blocks  # The first block may be set in 27 ways.


def test_blocks_that_need_different_fields_are_tried_one_by_one():
    answer = {("blocks", "0"): {("a",): 1}, ("blocks", "1"): {("a",): 0, ("b",): 1}}

    def proposals(path):
        return [Override(path, field, 1) for field in (("a",), ("b",)) if path[1:]]

    assert search(puzzle(answer), proposals, lambda path: path[0]).error is None


def test_gives_up_with_the_first_error_or_the_run_that_was_refused():
    attempts = []

    def attempt(chosen):
        attempts.append(chosen)
        if chosen:
            return Trial(error=ValueError("another model"), ran=True)
        return Trial(broke_at=("x",), error=ValueError("reshape"))

    trial = search(attempt, lambda path: [Override(path, ("n",), 1)] if path else [], alone)
    assert "not the same model: another model" in str(cannot_rebuild("m", trial))
    trial = search(attempt, lambda path: [], alone)
    assert "'m' does not run" in str(cannot_rebuild("m", trial))
    assert len(attempts) < 5


def test_the_search_is_bounded():
    attempts = []

    def attempt(chosen):
        attempts.append(chosen)
        return Trial(broke_at=("x",), error=ValueError())

    search(attempt, lambda path: [Override(path, (str(n),), n) for n in range(30)], alone)
    assert len(attempts) < 600


def test_fields_are_proposed_where_they_equal_what_shrinks_below():
    plan = Plan(
        (SpacePlan("q", 0, Cut.of(4, [0, 3])),),
        (
            ArrayPlan(("params", "one", "w"), (8, 24), ((1, Cut.of(24, range(12))),)),
            ArrayPlan(("params", "two", "w"), (8, 24), ((1, Cut.of(24, range(18))),)),
        ),
        ("params",),
    )
    halved = {24: [12], 4: [2], 8: [4], 12: [6]}  # 8 heads, or 12, may share the 4 groups' keys.
    assert shrinking_sizes(("one",), plan) == halved
    assert shrinking_sizes((), plan) == {**halved, 24: [12, 18]}
    assert shrinking_sizes(("two",), plan) == {24: [18], 4: [2]}
    proposals = width_proposals(("two",), {("heads",): 4, ("hidden",): 24, ("depth",): 9}, plan)
    assert proposals == [
        Override(("two",), ("heads",), 2),
        Override(("two",), ("hidden",), 18),
    ]
