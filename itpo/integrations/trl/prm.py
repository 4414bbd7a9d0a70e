"""The process reward model as a second LoRA adapter on the policy's base, with an optimizer of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from peft import LoraConfig, PeftModel
from torch import Tensor

from itpo import prm
from itpo.models.optimizers import get_state, set_state
from itpo.rollout.seeding import seeded
from itpo.training.ranking import ranking_auc

ADAPTER = "prm"
# Log-probabilities of the completions of these rows under the active adapter.
Score = Callable[[Tensor], Tensor]


def check_adapter(config: Any) -> None:
    """Raise ``ValueError`` for an adapter beside which the base model is not the reference.

    >>> check_adapter(LoraConfig())
    >>> check_adapter(None)
    Traceback (most recent call last):
        ...
    ValueError: a process reward model needs the base model and a LoraConfig as peft_config, got None
    """
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"a process reward model needs the base model and a LoraConfig as peft_config, got {config!r}"
        )
    if config.init_lora_weights not in (True, "gaussian") or config.modules_to_save:
        raise ValueError(
            f"init_lora_weights={config.init_lora_weights!r} and modules_to_save={config.modules_to_save!r} change the base, "
            "which is the reference of policy and PRM: leave them out"
        )


def _full(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


class AdapterPRM:
    """The PRM of equations (1) to (3) beside the adapter that ``model`` has.

    Losses and gradients are added up over all processes, so that a batch teaches the same however it is spread. It starts as
    the reference, equal on all processes.
    """

    def __init__(
        self, model: PeftModel, accelerator: Accelerator, learning_rate: float, clip_norm: float, seed: int
    ) -> None:
        self.model, self.accelerator, self.clip_norm = model, accelerator, clip_norm
        (self.policy,) = model.peft_config
        config = copy.deepcopy(model.peft_config[self.policy])
        config.lora_dropout = 0.0  # its log-ratio to the reference is a reward, not to be noisy
        trained = self._trained()
        cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            model.add_adapter(ADAPTER, config)
        self.parameters = {name: p for name, p in model.named_parameters() if f".{ADAPTER}." in name}
        self._back(trained)
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate, weight_decay=0.0)

    def _trained(self) -> set[str]:
        return {name for name, p in self.model.named_parameters() if p.requires_grad}

    def _back(self, trained: set[str]) -> None:
        """Let the policy speak again, and train what was trained: PEFT's own switches change both."""
        self.model.set_adapter(self.policy)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in trained)

    @contextmanager
    def use(self, adapter: str | None) -> Iterator[None]:
        """Let another adapter speak, or for ``None`` the reference."""
        trained = self._trained()
        try:
            if adapter is None:
                with self.model.disable_adapter():
                    yield
            else:
                self.model.set_adapter(adapter)
                yield
        finally:
            self._back(trained)

    @torch.no_grad()
    def log_probs(self, score: Score, rows: int, adapter: str | None = ADAPTER) -> Float[Tensor, "b T"]:
        """Log-probabilities of this process's rows under the PRM, or for ``None`` under the reference."""
        with self.use(adapter):
            return _full(score(torch.arange(rows)))

    def update(
        self,
        score: Score,
        reference: Float[Tensor, "b T"],
        mask: Bool[Tensor, "b T"],
        outcome: Float[Tensor, " B"],
        kept: Bool[Tensor, " B"],
        settings: Any,
        stream: str,
    ) -> dict[str, float]:
        """Equation (3) in small minibatches, drawn from the kept rows of all processes; the metrics of unseen dialogues.

        This process holds the b rows of ``reference`` and ``mask``; ``outcome`` and ``kept`` are of all B. ``settings`` are
        those of :class:`itpo.integrations.trl.ITPOConfig`.
        """
        own, first = len(mask), self.accelerator.process_index * len(mask)
        returns = torch.zeros_like(outcome, dtype=reference.dtype)
        order = torch.randperm(len(outcome), generator=seeded(stream, "prm")).to(kept.device)
        order, skipped = order[kept[order]], 0
        for minibatch in order.chunk(settings.prm_minibatches) if len(order) else ():
            here = minibatch[(minibatch >= first) & (minibatch < first + own)] - first
            self.optimizer.zero_grad()
            with self.use(ADAPTER):
                for rows in here.split(settings.per_device_train_batch_size) if len(here) else ():
                    ratio = prm.log_ratio(_full(score(rows)), reference[rows], mask[rows])
                    returns[first + rows] = prm.implicit_return(ratio.detach(), mask[rows], settings.prm_beta)
                    loss = prm.outcome_loss(
                        ratio,
                        outcome[first + rows],
                        mask[rows],
                        settings.prm_beta,
                        denominator=len(minibatch),
                    )
                    loss.backward()
            skipped += not self._step()
        returns = self.accelerator.reduce(returns, "sum")[order]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(returns, outcome[order].to(returns))
        auc = ranking_auc(returns.cpu(), outcome[order].cpu()) if len(order) else float("nan")
        return {"prm/loss": loss.item(), "prm/auc": auc, "prm/skipped": float(skipped)}

    def _step(self) -> bool:
        """One optimizer step by the gradients of all processes; none where they are not finite."""
        parameters = list(self.parameters.values())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        total = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
        for parameter, gradient in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()  # what TRL clips next are the policy's gradients alone
        return finite

    def state(self) -> dict[str, Tensor]:
        """What the optimizer remembers, by parameter; the weights are saved with the policy's."""
        return {
            f"{name}|{key}": value.cpu().contiguous()
            for name, parameter in self.parameters.items()
            for key, value in get_state(self.optimizer, parameter).items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` gave."""
        for name, parameter in self.parameters.items():
            own = {
                key.removeprefix(f"{name}|"): t for key, t in tensors.items() if key.startswith(f"{name}|")
            }
            moments = {key: t if key == "step" else t.to(parameter.device) for key, t in own.items()}
            set_state(self.optimizer, parameter, moments)
