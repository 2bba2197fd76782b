"""What a distillation is checked for: a teacher of the same vocabulary, and something to learn from it.

The trainers are TRL's: `DistillationTrainer` on replies that the student samples, and `GKDTrainer` on replies
that are given. Both compare next-token distributions entry by entry, and look only at how many entries there
are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain_helpers.errors import CourseError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


def check_same_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    """Check that entry 17 of the student's distribution is the same token as entry 17 of the teacher's.

    TRL compares the sizes of the two vocabularies and nothing else.

    Raises:
        CourseError: they differ; the sentence names a token.
    """
    own, other = student.get_vocab(), teacher.get_vocab()
    if own == other:
        return
    different = sorted(token for token in own.keys() | other.keys() if own.get(token) != other.get(token))
    raise CourseError(
        f"student and teacher have different vocabularies ({len(own):,} and {len(other):,} tokens, "
        f"{len(different):,} of them not in the same place, such as {different[0]!r}), so that their "
        "distributions cannot be compared token by token; take a teacher of the student's family, or train "
        "on the teacher's texts (sequence-level distillation)."
    )


def check_distillation(trainer: Trainer) -> None:
    """Check a finished trainer that distils; a teacher that predicts what the student does gets a note.

    Raises:
        CourseError: `GKDTrainer` is to sample (`lmbda` above 0): it then divides the loss of the sampled
            tokens by the number of tokens in the rows that they replace.
    """
    if getattr(trainer.args, "lmbda", 0) > 0:
        raise CourseError(
            f"args.lmbda is {trainer.args.lmbda}, but GKDTrainer divides the loss of sampled replies by the "
            "number of tokens of the replies that they replace; set args.lmbda=0, or take the method "
            "distill_on_policy."
        )
    if _same_predictions(trainer.model, trainer.teacher_model):
        print(
            "note: the teacher predicts what the student predicts, so there is nothing to learn from it; "
            "set teacher to a stage that is better than the parent."
        )


def _same_predictions(student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    """Compare logits for a few tokens: the weights of an adapter and of a merged model have other names."""
    import torch

    tokens = torch.arange(min(16, student.config.get_text_config().vocab_size))[None]
    was_training = student.training
    with torch.no_grad():
        logits = [
            model.eval()(input_ids=tokens.to(model.device)).logits.float().cpu()
            for model in (student, teacher)
        ]
    student.train(was_training)
    return torch.allclose(*logits, atol=1e-5)
