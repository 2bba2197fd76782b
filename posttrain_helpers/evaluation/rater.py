"""A language model as a rater: it is shown one reply, and the odds that it calls it good are the rating."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain_helpers.evaluation.judge_base import Item, Reply, after_prompt, as_text, messages_of
from posttrain_helpers.evaluation.letters import LetterReader

RATING_TEMPLATE = """\
Rate the reply to a request. A good reply is correct, helpful and to the point, and its manner is friendly.

[Request]
{question}

[Reply]
{reply}

Is this reply good (A) or bad (B)? Answer with one letter, A or B, and nothing else."""


class LanguageModelRater(LetterReader):
    """Show a language model one reply at a time and read how much likelier it is to call it good than bad.

    A rating can be computed for a reply alone, where a judge of pairs needs another one beside it, and two
    models are compared by the ratings of their replies. It is the cruder instrument of the two: measure how
    often it agrees with people before you believe it.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: its tokenizer, with chat template and padding token.
        name: what to call the rater in tables.
        template: the user message, with {question} and {reply}.
        letters: the answers for "good" and "bad"; not necessarily one token.
        batch_size: texts in a batch; fewer where a large vocabulary needs the memory.

    Raises:
        CourseError: as `letters.LetterReader`.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685,
    section 3.1, single answer grading; the odds of the answer in place of a written grade as in Liu et al.
    2023, "G-Eval", arXiv:2303.16634, section 2.
    """

    FIELDS = ("question", "reply")
    TEMPLATE = RATING_TEMPLATE

    def question(self, item: Item, reply: Reply) -> str:
        """Return the user message that shows a reply.

        Raises:
            CourseError: a prompt or reply of an unknown form.
        """
        return self.filled(question=as_text(messages_of(item)), reply=as_text(after_prompt(item, reply)))

    def ratings(self, items: Sequence[Item], replies: Sequence[Reply]) -> list[float]:
        """Return the log-odds of "good" against "bad" for each reply, in nats; 0 is undecided.

        Each text is rated once: in another batch a rating is rounded otherwise, and equal replies would not
        tie.

        Args:
            items: N items with a prompt.
            replies: N replies, each a text, or the messages after the prompt.

        Raises:
            CourseError: a prompt or reply of an unknown form, or one that is longer than the model's context.
        """
        questions = [self.question(item, reply) for item, reply in zip(items, replies, strict=True)]
        first_with = {question: item for question, item in zip(questions, items, strict=True)}
        if not first_with:
            return []
        log_probs = self.read(list(first_with.values()), list(first_with))
        ratings = dict(zip(first_with, (log_probs[:, 0] - log_probs[:, 1]).tolist(), strict=True))
        return [ratings[question] for question in questions]
