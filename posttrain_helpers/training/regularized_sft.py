"""Supervised fine-tuning near the base model: TRL's SFT, and a price for every nat away from the base.

    loss = SFT loss + kl_beta * KL

The KL divergence is that of the next-token distributions over the whole vocabulary, at the positions whose
token is trained, and the mean over them. SFT loss, logs and data are TRL's own: this class looks at the last
hidden states of the pass that TRL makes anyway, and reads the batch once more with the base model.

Source: Li and Hoiem 2016 ("Learning without Forgetting") hold a network near its old outputs in this way
(the forward direction); Stiennon et al. 2020 and Ouyang et al. 2022 (InstructGPT) price the reverse direction
in the reward of PPO.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint
from trl import SFTTrainer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.losses.kl import token_kl
from posttrain_helpers.memory.estimate import KL_LOGITS
from posttrain_helpers.training.checks import check_unpatched
from posttrain_helpers.training.regularized_sft_config import RegularizedSFTConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How configs say that logits are not what the output layer returns (see `add_fused_lm_head` of TRL).
_CHANGED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)
# Initialisations of LoRA that change the base weights, so that the model without its adapter is not the base.
_CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


class RegularizedSFTTrainer(SFTTrainer):
    """Train a model on replies, near the model that it was.

    Logged beside the metrics of `SFTTrainer`: `kl`, in nats per trained token and in the direction that is
    trained, and `sft_loss`, the loss without the KL term.

    Args:
        model: a loaded model. The base is a frozen copy of it as it is now; of a model with an adapter it is
            the model without the adapter, and no copy is made.
        args: the arguments.
        ref_model: another model to stay near, in place of the base.
        kwargs: all else that `SFTTrainer` takes.

    Attributes:
        ref_model: the model that was given or the frozen copy, None with an adapter alone.

    Raises:
        CourseError: arguments of another class, a model that was not loaded yet or that another trainer has
            patched, an adapter without which the model is not the base, logits that are scaled or capped,
            another number of them than the reference model's, or weights that are sharded or compiled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: RegularizedSFTConfig | None = None,
        ref_model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        args = RegularizedSFTConfig("trainer_output") if args is None else args
        if not isinstance(args, RegularizedSFTConfig):
            raise CourseError(
                f"RegularizedSFTTrainer needs a RegularizedSFTConfig, but a {type(args).__name__} was given."
            )
        if isinstance(model, str):
            raise CourseError(
                f"RegularizedSFTTrainer needs a loaded model, but the name {model!r} was given; load it with "
                "load_model_and_tokenizer."
            )
        _check_logits(model)
        reference = ref_model
        if reference is not None:
            _check_logits(reference)
            _check_sizes(model, reference)
            reference = reference.requires_grad_(False).eval().to(args.device)
        elif not isinstance(model, PeftModel) and kwargs.get("peft_config") is None:
            check_unpatched(model)
            # Now: TRL binds the forward of the model that it trains, and a later copy would run its weights.
            reference = copy.deepcopy(model).requires_grad_(False).eval().to(args.device)
        super().__init__(model, args, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or args.torch_compile:
            raise CourseError(
                "RegularizedSFTTrainer runs in one process or with DDP (torchrun), uncompiled; FSDP and "
                "DeepSpeed shard the output layer, which it calls by itself, and compiled code hides the "
                "hidden states."
            )
        if reference is None:
            _check_adapter(self.model)
        self.ref_model = reference

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return this batch's share of the loss: sums over tokens, by the tokens of the whole step."""
        with _last_states(self._body.base_model) as passes:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        sft_loss, *outputs = result if return_outputs else (result,)
        trained = inputs["labels"][:, 1:] != -100
        # The first pass is the one that is trained; outputs with logits take another one.
        kl_sum = self._summed_kl(passes[0][:, :-1][trained], self._base_states(inputs)[:, :-1][trained])
        share = self._share(trained.sum(), num_items_in_batch)
        self._record(kl_sum.detach(), sft_loss.detach() / share, trained.sum())
        loss = sft_loss + self.args.kl_beta * kl_sum * share
        return (loss, *outputs) if return_outputs else loss

    @property
    def _body(self) -> PreTrainedModel:
        """The model inside the adapter, if there is one."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @torch.no_grad()
    def _base_states(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the base model's last hidden states, shape (B, T, hidden size)."""
        read = {name: value for name, value in inputs.items() if name != "labels"}
        with self._base() as base, self.accelerator.autocast():  # the precision of the policy's pass
            return base.base_model(**read).last_hidden_state

    @contextmanager
    def _base(self) -> Iterator[PreTrainedModel]:
        """Yield the base model, without dropout."""
        if self.ref_model is not None:
            # Callbacks may change the policy's, and in bfloat16 another one rounds otherwise.
            if self.ref_model.config._attn_implementation != self.model.config._attn_implementation:
                self.ref_model.set_attn_implementation(self.model.config._attn_implementation)
            yield self.ref_model
            return
        training = self.model.training
        self.model.eval()
        try:
            with self.model.disable_adapter():
                yield self._body
        finally:
            self.model.train(training)

    def _summed_kl(self, policy_states: torch.Tensor, base_states: torch.Tensor) -> torch.Tensor:
        """Return the sum of the divergences in nats, of last hidden states of shape (N, hidden size)."""
        head = self._body.get_output_embeddings()
        base_head = head if self.ref_model is None else self.ref_model.get_output_embeddings()
        # An adapter may train a copy of the output layer; then the original is kept beside it.
        base_head = getattr(base_head, "original_module", base_head)

        def summed(policy: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                base_logits = base_head(base)
            logits = (head(policy), base_logits)
            forward = self.args.kl_direction == "forward"
            return token_kl(*(reversed(logits) if forward else logits)).sum()

        # So many logits are held at a time; the backward pass makes them anew.
        rows = max(1, KL_LOGITS // self._body.config.get_text_config().vocab_size)
        total = policy_states.new_zeros((), dtype=torch.promote_types(policy_states.dtype, torch.float32))
        with self.accelerator.autocast():
            for policy, base in zip(policy_states.split(rows), base_states.split(rows), strict=True):
                total = total + checkpoint(summed, policy, base, use_reentrant=False)
        return total

    def _share(self, tokens: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor:
        """Return what a sum over this batch's tokens is multiplied by, as in `SFTTrainer`."""
        count = tokens if num_items_in_batch is None else num_items_in_batch
        share = 1 / torch.as_tensor(count, device=tokens.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # DDP averages the gradients of the processes, but the tokens are those of all of them.
            share = share * (self.accelerator.num_processes // self.get_tp_size())
        return share

    def _record(self, kl_sum: torch.Tensor, sft_sum: torch.Tensor, tokens: torch.Tensor) -> None:
        """Keep the means over this batch's trained tokens for the next log."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        kl_sum, sft_sum, tokens = (
            self.accelerator.gather_for_metrics(number).sum() for number in (kl_sum, sft_sum, tokens)
        )
        metrics["kl"].append((kl_sum / tokens.clamp(min=1)).item())
        metrics["sft_loss"].append((sft_sum / tokens.clamp(min=1)).item())


@contextmanager
def _last_states(backbone: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield a list that gets the last hidden states of every pass in the block, of shape (B, T, size)."""
    passes: list[torch.Tensor] = []
    hook = backbone.register_forward_hook(
        lambda module, arguments, output: passes.append(output.last_hidden_state)
    )
    try:
        yield passes
    finally:
        hook.remove()


def _check_logits(model: PreTrainedModel) -> None:
    config = model.config.get_text_config()
    for name in _CHANGED_LOGITS:
        if getattr(config, name, None) not in (None, 1):
            raise CourseError(
                f"the model changes what its output layer returns ({name}={getattr(config, name)}), which "
                "the KL term does not know; take another model, or SFTTrainer."
            )


def _check_sizes(model: PreTrainedModel, reference: PreTrainedModel) -> None:
    sizes = [each.get_output_embeddings().weight.shape[0] for each in (model, reference)]
    if sizes[0] != sizes[1]:
        raise CourseError(
            f"the model has logits for {sizes[0]:,} tokens and the reference model for {sizes[1]:,}, so "
            "there is no KL divergence between them; take a reference model of the same vocabulary."
        )


def _check_adapter(model: PeftModel) -> None:
    """Check that the model without its adapters is the model that was trained on top of."""
    for config in model.peft_config.values():
        start, bias = getattr(config, "init_lora_weights", True), getattr(config, "bias", "none")
        fault = ""
        if config.is_prompt_learning:
            fault = "is made of tokens before the text, which the base does not read"
        elif isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
            fault = f"begins by changing the base weights (init_lora_weights={start!r})"
        elif bias != "none":
            fault = f"trains biases of the base itself (bias={bias!r})"
        if fault:
            raise CourseError(
                f"the adapter {fault}, so that without it the model is not the base that the KL term needs; "
                "take a LoRA adapter with the usual start and without biases."
            )
