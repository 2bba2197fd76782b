"""Every exercise of every lesson: its solution passes, and each typical mistake gets its own hint."""

from __future__ import annotations

import math
import re
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from posttrain_helpers.lessons.exercises import all_exercises, check
from posttrain_helpers.lessons.exercises.exercise import NOT_ANSWERED, Exercise
from posttrain_helpers.lessons.exercises.lesson_01 import pad_rows
from posttrain_helpers.lessons.exercises.lesson_02 import completion_labels, pack
from posttrain_helpers.lessons.exercises.lesson_03 import lora_parameters
from posttrain_helpers.lessons.exercises.lesson_06 import batch_metrics
from posttrain_helpers.lessons.exercises.lesson_07 import kto_batch
from posttrain_helpers.lessons.exercises.lesson_08 import explained_variance as variance_explained
from posttrain_helpers.lessons.exercises.lesson_08 import leave_one_out
from posttrain_helpers.lessons.exercises.lesson_09 import fit
from posttrain_helpers.lessons.exercises.lesson_11b import jsd, token_loss
from posttrain_helpers.lessons.exercises.lesson_12 import interval_of_mean, sign_flip_p
from posttrain_helpers.lessons.exercises.lesson_13 import cohens_kappa, win_rate_of_left
from posttrain_helpers.lessons.run import discover
from posttrain_helpers.losses.advantages import explained_variance
from posttrain_helpers.losses.preference import dpo_loss
from posttrain_helpers.recipes.loading import load_recipe
from posttrain_helpers.statistics.agreement import cohen_kappa
from posttrain_helpers.statistics.paired_tests import sign_flip_p as packaged_sign_flip_p

EXERCISES = all_exercises()
SOLUTIONS = {exercise.id: exercise.solution for exercise in EXERCISES}
FEWEST, FEWEST_MISTAKES = 4, 2


def asked_in(path: object) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.findall(r'\bcheck\("(\d\d[a-z]?\.\d+)"', source)


def test_notebooks_ask_every_exercise_once_and_no_other() -> None:
    asked = [number for path in discover() for number in asked_in(path)]
    assert asked == [exercise.id for exercise in EXERCISES], "each once, and in reading order"


def lesson_of(exercise: Exercise) -> str:
    return exercise.id.partition(".")[0]


def test_a_lesson_has_exercises_of_different_kinds() -> None:
    lessons = {lesson_of(exercise) for exercise in EXERCISES}
    for lesson in sorted(lessons):
        kinds = [exercise.kind for exercise in EXERCISES if lesson_of(exercise) == lesson]
        assert len(kinds) >= FEWEST, lesson
        assert set(kinds) == {"predict", "function", "bug", "change"}, lesson


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_solution_is_right(exercise: Exercise) -> None:
    feedback = check(exercise.id, exercise.solution)
    assert feedback.correct is True, str(feedback)
    assert exercise.why, "a lucky guess should learn something, too"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_a_typical_mistake_gets_its_own_hint(exercise: Exercise) -> None:
    assert len(exercise.mistakes) >= FEWEST_MISTAKES
    hints = []
    for answer, words in exercise.mistakes:
        feedback = check(exercise.id, answer)
        assert feedback.correct is False, str(feedback)
        assert words in feedback.message, feedback.message
        hints.append(feedback.message)
    own = {words for _, words in exercise.mistakes}
    assert len(set(hints)) >= len(own), "two mistakes, one hint: say what each did wrong"


def in_another_unit(exercise: str, factor: float) -> Any:
    solution = SOLUTIONS[exercise]
    return lambda *given: factor * torch.as_tensor(solution(*given))


def always(value: object) -> Any:
    return lambda *given: value


def product_of_the_paper(n: int, c: int, k: int) -> float:
    """Return the product form, which needs a case of its own where few samples are wrong."""
    return 1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1)) if n - c >= k else 0.0


def kappa_without_ties(first: list[str], second: list[str]) -> float:
    agreement = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    chance = sum(first.count(v) * second.count(v) for v in ("left", "right")) / len(first) ** 2
    return (agreement - chance) / (1 - chance)


def replies_without_their_start(tokens: list[str]) -> list[int]:
    mask: list[int] = []
    for place in range(len(tokens)):
        goes_on = mask[-1:] == [1] and tokens[place - 1] != "<|im_end|>"
        mask.append(int(goes_on or tokens[:place][-2:] == ["assistant", "\n"]))
    return mask


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [
        ("01.1", ["answer"], "is expected here"),
        ("01.2", lambda batches: sum(batches[-1]) / len(batches[-1]), "returns 4.000. Every supervised"),
        ("02.1", [0, 1], "3 numbers are expected"),
        ("02.2", lambda prompt, whole: whole[len(prompt) :], "one label for each"),
        ("03.1", {"A": "zero"}, 'the keys "A", "B" and "both zero"'),
        ("03.3", lambda weight, A, B, alpha: weight + 2 * B @ A, "a rank of 2 and alpha 5"),
        ("05.1", lambda rewards: float(rewards.mean()), "all pairs of that list by hand"),
        ("05.3", 0.5, "two groups"),
        ("06.1", "falls", "two words"),
        ("06.2", dpo_loss, "2 numbers are expected"),
        ("06.3", always(9.0), "log-probability of one reply"),
        ("07.1", "all", "is expected here"),
        ("07.2", in_another_unit("07.2", 2), "another loss is expected"),
        ("07.3", in_another_unit("07.3", 2), "Another loss is expected"),
        ("08.1", [1, 1, 0, 0], "ratio * A and clip(ratio) * A"),
        ("08.2", always(0.5), "which is not right"),
        ("08.3", lambda rewards: rewards[0], "in the shape of the rewards"),
        ("08.3", lambda rewards: rewards * 3 + 1, "Work out one of them by hand"),
        ("09.1", ["rises", "rises"], "Give three answers"),
        ("09.2", lambda kl, gain: (*fit(kl, gain)[:2], 1.0), "Alpha and beta are right"),
        ("09.2", always((1.0, 1.0, 1.0)), "two columns for lstsq"),
        ("09.3", always(0), "one by one"),
        ("10.2", product_of_the_paper, "every choice of 3 holds a right one"),
        ("10.2", always(0.1), "Count the choices"),
        ("11b.2", in_another_unit("11b.2", 1 / math.log(2)), "the natural one"),
        ("11b.2", lambda p, q, beta: jsd(p, q, beta) + p.count(0) + q.count(0), "0 times the logarithm of 0"),
        ("11b.3", lambda *batch: token_loss(*batch[:3], 2.0), "the temperature that it is given"),
        ("12.1", 7, "one fewer"),
        ("12.1", 50, "did not flip"),
        ("12.1", 3, "Throw n coins"),
        ("12.2", always((0.0, 1.0)), "independent of each other"),
        ("12.3", lambda differences: sign_flip_p(differences) + 0.01, "go through all of them"),
        ("12.3", always(0.5), "by hand"),
        ("13.2", kappa_without_ties, "left, right, tie"),
        ("13.3", always(0.05), "by hand"),
        ("14.1", [1, 7], "from 0 to 5"),
        ("14.1", 2, "list of row numbers"),
        ("14.1", [True, True, False, False, False, False], "no True or False"),
        ("14.2", lambda tokens: [0] * len(tokens), "that the assistant says"),
        ("14.2", replies_without_their_start, "[?][<|im_end|>]"),
        ("14.3", always(0.5), "by hand"),
    ],
)
def test_any_other_answer_hears_where_to_look(number: str, answer: object, words: str) -> None:
    feedback = check(number, answer)
    assert feedback.correct is False
    assert words in feedback.message


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_an_unanswered_exercise_says_so(exercise: Exercise) -> None:
    assert check(exercise.id, None).message == NOT_ANSWERED


def padded_as(kind: Any) -> Any:
    return lambda rows, pad_id: {key: kind(map(kind, rows)) for key, rows in pad_rows(rows, pad_id).items()}


def packed_with_its_first_label(rows: Any) -> dict[str, list[int]]:
    """Keep the first label of the whole row, which nothing predicts."""
    row = pack(rows)
    return {**row, "labels": [rows[0]["labels"][0], *row["labels"][1:]]}


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("00.1", np.array([1, 4])),
        ("01.1", {"Reply", " end token "}),
        ("01.3", padded_as(tuple)),
        ("01.3", lambda rows, pad_id: {k: torch.tensor(v) for k, v in pad_rows(rows, pad_id).items()}),
        ("02.1", np.array([0.0, 0.0, 1.0])),
        ("02.2", lambda *ids: torch.tensor(completion_labels(*ids))),
        ("02.3", lambda rows: {key: torch.tensor(values) for key, values in pack(rows).items()}),
        ("02.3", packed_with_its_first_label),
        ("03.1", {"A": " Zero", "B": "NOT ZERO", "both zero": "zero"}),
        ("03.2", lambda shapes, r: torch.tensor(lora_parameters(shapes, r))),
        ("03.2", lambda shapes, r: r * (np.array(shapes)[:, 0] + np.array(shapes)[:, 1]).sum()),
        ("03.3", lambda weight, A, B, alpha: weight + alpha / len(A) * (B @ A)),
        ("03.3", lambda weight, A, B, alpha: (weight + alpha / len(A) * (B @ A)).numpy()),
        ("05.3", 86),
        ("06.1", np.array(["Falls", "falls "])),
        ("06.2", lambda *arguments: np.array(batch_metrics(*arguments))),
        ("07.1", ["orpo", "simpo"]),
        ("07.1", pd.Series(["SimPO", "ORPO"])),
        ("12.1", 6.0),
        ("13.1", np.array([0.82, 0.0])),
        ("14.1", range(2)),
    ],
)
def test_a_right_answer_is_right_in_another_type_or_case(number: str, answer: object) -> None:
    feedback = check(number, answer)
    assert feedback.correct is True, str(feedback)


def changing_its_input(function: Any) -> Any:
    def changed(*arguments: Any) -> Any:
        result = function(*arguments)
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                argument.zero_()
            elif isinstance(argument, list):
                argument.clear()
        return result

    return changed


FUNCTIONS = [exercise for exercise in EXERCISES if callable(exercise.solution) and exercise.id != "07.3"]


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.id)
def test_a_function_that_changes_its_input_is_graded_like_another(exercise: Exercise) -> None:
    assert check(exercise.id, changing_its_input(exercise.solution)).correct is True
    for answer, words in exercise.mistakes:
        if callable(answer):
            assert words in check(exercise.id, changing_its_input(answer)).message
    assert check(exercise.id, exercise.solution).correct is True


IDS = {"input_ids": [[5, 6, 2, 0, 0], [5, 6, 7, 8, 2]]}
HOSTILE = [
    *(3, "x", b"ab", float("nan"), 1j, 10**400, object(), {}, [None] * 5, [[1], [2]], np.array(1.0)),
    *(torch.tensor(1.0), torch.zeros(5, 3), [np.array([1, 2])] * 2, [10**400] * 5, pd.DataFrame({"a": [1]})),
    *({"input_ids": 3, "labels": None}, {**IDS, "labels": [[1]]}, {**IDS, "labels": [1, 2]}),
]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_no_answer_stops_the_grading(exercise: Exercise) -> None:
    for value in HOSTILE:
        assert not check(exercise.id, value).correct, value
        assert not check(exercise.id, lambda *_, value=value: value).correct, value
        if exercise.kind == "change":
            for key in exercise.solution:
                assert not check(exercise.id, {**exercise.solution, key: value}).correct, value


def test_rows_may_be_a_set_of_anything() -> None:
    assert "A number is expected" in check("14.1", {0, "one"}).message


def test_labels_of_another_shape_are_not_called_padding() -> None:
    def unpadded(rows: Any, pad_id: int) -> Any:
        return {**pad_rows(rows, pad_id), "labels": [row["labels"] for row in rows]}

    assert "not one label for each token" in check("01.3", unpadded).message


def test_a_rate_of_a_table_is_no_new_value() -> None:
    solution = SOLUTIONS["03.4"]
    rate = load_recipe("lora").args["learning_rate"]
    for times, words in ((2, "A table above"), (4, "A table above"), (1, "own value"), (3, "Right")):
        changed = {**solution, "changed": f"args.learning_rate={times * rate}"}
        assert words in str(check("03.4", changed))


@pytest.mark.parametrize("exercise", ["01.3", "02.1", "02.2", "02.3"])
def test_nothing_is_rounded_to_a_right_answer(exercise: str) -> None:
    def shifted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shifted(values) for key, values in value.items()}
        return [shifted(one) for one in value] if isinstance(value, list) else value + 0.25

    solution = SOLUTIONS[exercise]
    answer = (lambda *inputs: shifted(solution(*inputs))) if callable(solution) else shifted(solution)
    assert "whole numbers are expected" in check(exercise, answer).message


def test_a_sampler_counts_tokens_that_it_never_draws() -> None:
    def without_the_rare(logits: torch.Tensor, temperature: float, draws: int = 1000) -> torch.Tensor:
        tokens = torch.multinomial((logits / temperature).softmax(-1), draws, replacement=True)
        return tokens.bincount() / draws

    assert "4 numbers are expected" in check("00.3", without_the_rare).message


def test_hints_do_not_fit_by_accident() -> None:
    def highest_real_token(scores: torch.Tensor, mask: torch.Tensor) -> float:
        chosen, rejected = scores.masked_fill(mask == 0, -1e9).amax(1).chunk(2)
        return (chosen > rejected).float().mean().item()

    assert "by hand" in check("05.2", highest_real_token).message
    assert (
        "174 is right" in check("03.2", lambda shapes, r: sum(2 * r * shape[0] for shape in shapes)).message
    )


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda *arguments: kto_batch(*arguments).item(), "has no gradient"),
        (lambda *arguments: kto_batch(*arguments).detach(), "has no gradient"),
        (changing_its_input(kto_batch), "its gradient stops with"),
    ],
)
def test_a_loss_without_a_gradient_is_told(loss: Any, words: str) -> None:
    assert words in check("07.3", loss).message


def test_a_reply_may_move_to_the_row_before_and_the_hints_still_fit() -> None:
    def backwards(policy, reference, prompts, replies, desirable, beta, **how):
        rows = prompts[::-1], replies[::-1], desirable.flip(0)
        return kto_batch(policy, reference, *rows, beta, **how)

    assert check("07.3", backwards).correct is True
    assert "below 0" in check("07.3", lambda *arguments: backwards(*arguments, clamp=False)).message
    assert "reference score" in check("07.3", lambda *arguments: backwards(*arguments, both=False)).message


def test_a_weight_is_a_finite_number() -> None:
    for value in ("nan", "inf", "-1", "0", "much"):
        changed = {**SOLUTIONS["07.4"], "changed": f"args.desirable_weight={value}"}
        assert "above 0" in check("07.4", changed).message


def test_a_random_sign_test_is_told_to_be_exact() -> None:
    def drawn(differences: list[float]) -> float:
        signs = np.random.default_rng(0).choice((1, -1), (5000, len(differences)))
        return float((abs(signs @ differences) >= abs(sum(differences))).mean())

    assert "all of them" in check("12.3", drawn).message
    assert check("12.2", lambda scores: np.array(interval_of_mean(scores))).correct

    def by_student(scores: np.ndarray) -> tuple[float, float]:
        means = scores.mean(axis=1)
        return stats.t.interval(0.95, len(means) - 1, means.mean(), means.std(ddof=1) / len(means) ** 0.5)

    assert check("12.2", by_student).correct


def test_no_two_ways_to_count_wins_are_alike() -> None:
    def only_flipped(letters: list[str], flipped: list[bool]) -> float:
        return sum(letter == "B" and flip for letter, flip in zip(letters, flipped, strict=True)) / 10

    assert "by hand" in check("13.3", only_flipped).message
    assert check("13.3", lambda letters, flipped: np.float64(win_rate_of_left(letters, flipped))).correct


def test_solutions_give_the_numbers_of_the_package() -> None:
    generator = torch.Generator().manual_seed(0)
    values, returns = torch.randn(2, 4, 6, generator=generator)
    mask = (torch.rand(4, 6, generator=generator) < 0.7).long()
    expected = explained_variance(values, returns, mask)
    torch.testing.assert_close(variance_explained(values, returns, mask), expected)
    # Against the mean of the others: the distance to the mean of all, stretched.
    advantages = (values - values.mean(-1, keepdim=True)) * 6 / 5
    torch.testing.assert_close(leave_one_out(values), advantages)
    first, second = (np.random.default_rng(seed).choice(["left", "right", "tie"], 40) for seed in (1, 2))
    expected = cohen_kappa(first.tolist(), second.tolist()).kappa
    assert cohens_kappa(first.tolist(), second.tolist()) == pytest.approx(expected)
    for seed in range(5):
        differences = np.random.default_rng(seed).integers(-4, 8, size=9) / 4
        expected = packaged_sign_flip_p(differences)
        assert sign_flip_p(differences.tolist()) == pytest.approx(expected)
