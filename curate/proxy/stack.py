"""Training step, evaluation and state of K models that train together.

Shapes: K models, B sequences, T positions, N = B * T, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from curate.proxy.loss import HeadLoss, propagate
from curate.proxy.memory import MOST_ROWS
from curate.proxy.model import Weights, hidden_states, initial_weights, weight_shapes
from curate.proxy.optimiser import OptimiserSettings, StackedAdamW
from curate.proxy.shape import Shape
from curate.proxy.training_batches import ValidationRows


@dataclass(frozen=True, slots=True)
class StackSettings:
    """Settings that all models of a stack share."""

    shape: Shape
    optimiser: OptimiserSettings
    device: torch.device
    compute: torch.dtype
    """Type of the matrix products; weights, gradients and moments are float32."""
    threads: int = 1
    """CPU threads of this process."""


EVALUATION_ATTENTION = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""Ways to compute attention in an evaluation, the first possible one. Without cuDNN's, which plans
for a tenth of a second or more whenever it meets other sizes."""


class Stack:
    """Parameters and optimiser of K models."""

    def __init__(
        self,
        settings: StackSettings,
        seeds: Sequence[int],
        learning_rates: Sequence[float] | None = None,
        state: Weights | None = None,
    ) -> None:
        """Draw the initial weights, or take them from a state.

        Args:
            settings: Settings that the models share.
            seeds: shape (K,); each model starts as it would alone.
            learning_rates: shape (K,), at width 256; None takes the settings' rate for all.
            state: Result of `state` of the same number of models, to resume from.
        """
        self.settings = settings
        device = settings.device
        if state is None:
            self.weights = initial_weights(settings.shape, seeds, device)
        else:
            names = weight_shapes(settings.shape)
            self.weights = {name: state[f"weight.{name}"].to(device, copy=True) for name in names}
        for weight in self.weights.values():
            weight.requires_grad_()
        rates = learning_rates or [settings.optimiser.learning_rate] * len(seeds)
        self.optimiser = StackedAdamW(self.weights, rates, settings.optimiser)
        self._head_loss = HeadLoss(device.type)
        self._compute = {name: self._computed(name) for name in self.weights}
        if state is not None:
            self._load(state)

    def _computed(self, name: str) -> Tensor:
        """Return the tensor that stands for a weight in products, cast once a step.

        Its gradients are added to those of the float32 weight, one micro-step after the other.
        """
        weight = self.weights[name]
        if name == "embedding" or self.settings.compute == weight.dtype:
            return weight  # looked up in float32, and the rows cast: they are fewer than the ids
        low = weight.detach().to(self.settings.compute)
        if name == "head":
            return low  # its gradient is not autograd's, see `head_gradients`

        def add(low: Tensor) -> None:
            assert low.grad is not None  # autograd calls this once it has added to it
            if weight.grad is None:
                weight.grad = low.grad.to(weight.dtype)
            else:
                weight.grad.add_(low.grad)
            low.grad = None

        low.requires_grad_()
        low.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]
        return low

    @torch.no_grad()
    def cast(self) -> None:
        """Bring what products use up to the weights, after those have changed."""
        for name, weight in self.weights.items():
            if self._compute[name] is not weight:
                self._compute[name].copy_(weight)

    @property
    def models(self) -> int:
        """Number of models, K."""
        return len(self.weights["head"])

    @property
    def step_number(self) -> int:
        """Number of steps taken."""
        return self.optimiser.step_number

    def train_step(self, batch: Tensor, micro_sequences: int) -> Tensor:
        """Update every model once.

        Args:
            batch: shape (K, B, T + 1), token ids: context and targets; on any device.
            micro_sequences: Sequences of each model whose activations are in memory at a time.

        Returns:
            Mean loss of each model before the update, shape (K,), nats per token. It stays on the
            device: reading it would make the CPU wait for the step to end.
        """
        ids_KBT = batch.to(self.settings.device, non_blocking=True)
        sequences = ids_KBT.shape[1]
        loss_K = torch.zeros(self.models, device=self.settings.device)
        head = self.weights["head"]
        head.grad = torch.zeros_like(head)
        for start in range(0, sequences, micro_sequences):
            part_KBT = ids_KBT[:, start : start + micro_sequences]
            share = part_KBT.shape[1] / sequences
            hidden_KND = self._hidden(part_KBT[:, :, :-1])
            part_K, grad_KND = self._head_loss.gradients(
                hidden_KND.detach(),
                self._compute["head"],
                part_KBT[:, :, 1:].flatten(1).long(),
                head.grad,
                share,
            )
            propagate(hidden_KND, grad_KND)
            loss_K += part_K * share
        self.optimiser.step()
        self.cast()
        return loss_K

    def _hidden(self, ids_KBT: Tensor) -> Tensor:
        weights = dict(self._compute)
        if self.settings.shape.tied:
            weights["head"] = self.weights["head"]
        return hidden_states(weights, ids_KBT, self.settings.shape)

    @torch.no_grad()
    def row_losses(self, batch: NDArray[np.int64]) -> Tensor:
        """Compute the loss of every token of a batch that all models share.

        Args:
            batch: shape (B, T + 1), token ids. Losses of padding are computed too; the caller drops
                them.

        Returns:
            Shape (K, B, T), nats per token.
        """
        ids_BT = torch.from_numpy(batch).to(self.settings.device)
        ids_KBT = ids_BT.expand(self.models, *ids_BT.shape)
        on_gpu = self.settings.device.type == "cuda"  # elsewhere threads share the setting
        with sdpa_kernel(list(EVALUATION_ATTENTION)) if on_gpu else nullcontext():
            hidden_KND = self._hidden(ids_KBT[:, :, :-1])
        target_KN = ids_KBT[:, :, 1:].flatten(1)
        losses_KN = self._head_loss.token_losses(hidden_KND, self._compute["head"], target_KN)
        return losses_KN.view(self.models, len(batch), -1)

    def domain_losses(self, rows: ValidationRows, most_tokens: int) -> NDArray[np.float64]:
        """Sum the losses over each domain's validation tokens.

        Args:
            rows: Held-out tokens.
            most_tokens: Largest batch for each model, in tokens.

        Returns:
            Shape (K, domains), nats.
        """
        domains = len(rows.domain_tokens)
        total = torch.zeros(self.models, domains, device=self.settings.device, dtype=torch.float64)
        for numbers, batch in rows.batches(most_tokens, MOST_ROWS // self.models):
            losses_KBT = self.row_losses(batch)[:, : len(numbers)]
            lengths_B = torch.from_numpy(rows.tokens[numbers]).to(losses_KBT.device)
            columns_T = torch.arange(losses_KBT.shape[2], device=losses_KBT.device)
            inside_BT = columns_T < lengths_B[:, None]
            sums_KB = torch.where(inside_BT, losses_KBT, 0.0).sum(2, dtype=torch.float64)
            owner_B = torch.from_numpy(rows.domain[numbers]).to(total.device)
            total.index_add_(1, owner_B, sums_KB)
        sums: NDArray[np.float64] = total.cpu().numpy()
        return sums

    def state(self) -> Weights:
        """Return everything that training resumes from, as named tensors with a leading axis K."""
        optimiser = self.optimiser
        tensors = {f"weight.{name}": weight.detach() for name, weight in self.weights.items()}
        tensors |= {f"first.{name}": moment for name, moment in optimiser.first.items()}
        tensors |= {f"second.{name}": moment for name, moment in optimiser.second.items()}
        tensors["alive"] = optimiser.alive_K
        tensors["failed_step"] = optimiser.failed_step_K
        tensors["step"] = torch.full((self.models,), optimiser.step_number)
        return tensors

    def _load(self, state: Weights) -> None:
        optimiser = self.optimiser
        for name in self.weights:
            optimiser.first[name].copy_(state[f"first.{name}"])
            optimiser.second[name].copy_(state[f"second.{name}"])
        optimiser.alive_K = state["alive"].to(self.settings.device)
        optimiser.failed_step_K = state["failed_step"].to(self.settings.device)
        optimiser.step_number = int(state["step"][0])
