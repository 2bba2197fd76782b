"""A policy and its critic as one module: one forward pass, one optimizer and one DDP wrapper serve both.

The critic predicts at each token of a completion how much reward is still to come. It is a linear head on the
policy's own last hidden states, or a model of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from posttrain_helpers.generation.rollouts import TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ActorCritic(nn.Module):
    """A language model with a value for each token.

    Args:
        policy: a causal language model, or a PEFT model around one.
        value_model: a model with a score head of one output; None puts a new linear head, which predicts 0 at
            first, on the policy's hidden states.
    """

    def __init__(self, policy: PreTrainedModel, value_model: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.value_model = value_model
        self.value_head: nn.Linear | None = None
        if value_model is None:
            width = policy.config.get_text_config().hidden_size
            self.value_head = nn.Linear(width, 1, device=next(policy.parameters()).device)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass; the training loop calls it if its arguments say so."""
        for model in (self.policy, self.value_model):
            if model is not None:
                model.activation_checkpointing_enable(**kwargs)

    def forward(
        self,
        prompts: torch.Tensor,
        prompt_mask: torch.Tensor,
        completions: torch.Tensor,
        completion_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the policy and the critic think before each token of the completions.

        The arguments are the fields of a `TokenBatch`: B prompts of P tokens, padded on the left, and their
        completions of T tokens, padded on the right.

        Returns:
            The logits that predict each token of the completion, shape (B, T, V), and the values of the
            states in which they are chosen, shape (B, T).
        """
        tokens = TokenBatch(prompts, prompt_mask, completions, completion_mask)
        outputs = self.policy(
            **model_inputs(tokens),
            logits_to_keep=completions.shape[1] + 1,
            output_hidden_states=self.value_head is not None,
        )
        if self.value_head is None:
            values = self.values(tokens)
        else:
            values = _head_values(self.value_head, outputs.hidden_states[-1], completions.shape[1])
        return outputs.logits[:, :-1], values

    def values(self, tokens: TokenBatch) -> torch.Tensor:
        """Return the values of the states in which the tokens are chosen, shape (B, T)."""
        if self.value_head is not None:
            return self(tokens.prompts, tokens.prompt_mask, tokens.completions, tokens.completion_mask)[1]
        backbone = getattr(self.value_model, self.value_model.base_model_prefix)
        hidden = backbone(**model_inputs(tokens)).last_hidden_state
        return _head_values(self.value_model.score, hidden, tokens.completions.shape[1])


def completion_logits(model: PreTrainedModel, batch: TokenBatch) -> torch.Tensor:
    """Return a language model's logits that predict each token of the completions, shape (B, T, V)."""
    return model(**model_inputs(batch), logits_to_keep=batch.completions.shape[1] + 1).logits[:, :-1]


def model_inputs(tokens: TokenBatch) -> dict[str, torch.Tensor]:
    """Return the inputs of one forward pass over prompts and completions; positions skip the padding."""
    mask = torch.cat([tokens.prompt_mask, tokens.completion_mask], dim=1)
    return {
        "input_ids": torch.cat([tokens.prompts, tokens.completions], dim=1),
        "attention_mask": mask,
        "position_ids": mask.cumsum(1).sub(1).clamp(min=0),
        "use_cache": False,
    }


def _head_values(head: nn.Module, hidden: torch.Tensor, length: int) -> torch.Tensor:
    """Return the values of the states in which the last `length` tokens were chosen."""
    return head(hidden[:, -length - 1 : -1].to(head.weight.dtype)).squeeze(-1).float()
