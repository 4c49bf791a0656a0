"""Training step, evaluation and state of K models that train together.

Shapes: K models, B sequences, T positions, N = B * T, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curate.proxy.loss import chunk_tokens, head_loss, token_losses
from curate.proxy.model import Weights, hidden_states, initial_weights
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


class Stack:
    """Parameters and optimiser of K models."""

    def __init__(
        self,
        settings: StackSettings,
        seeds: Sequence[int],
        learning_rates: Sequence[float] | None = None,
    ) -> None:
        """Draw the initial weights.

        Args:
            settings: Settings that the models share.
            seeds: shape (K,); each model starts as it would alone.
            learning_rates: shape (K,), at width 256; None takes the settings' rate for all.
        """
        self.settings = settings
        rates = learning_rates or [settings.optimiser.learning_rate] * len(seeds)
        self.weights = initial_weights(settings.shape, seeds, settings.device)
        for weight in self.weights.values():
            weight.requires_grad_()
        self.optimiser = StackedAdamW(
            self.weights, torch.tensor(rates, device=settings.device), settings.optimiser
        )

    @property
    def models(self) -> int:
        """Number of models, K."""
        return len(self.weights["head"])

    @property
    def step_number(self) -> int:
        """Number of steps taken."""
        return self.optimiser.step_number

    def train_step(self, batch: NDArray[np.int64], micro_sequences: int) -> Tensor:
        """Update every model once.

        Args:
            batch: shape (K, B, T + 1), token ids: context and targets.
            micro_sequences: Sequences of each model whose activations are in memory at a time.

        Returns:
            Mean loss of each model before the update, shape (K,), nats per token. It stays on the
            device: reading it would make the CPU wait for the step to end.
        """
        ids_KBT = torch.from_numpy(batch).to(self.settings.device, non_blocking=True)
        sequences = ids_KBT.shape[1]
        loss_K = torch.zeros(self.models, device=self.settings.device)
        for start in range(0, sequences, micro_sequences):
            part = ids_KBT[:, start : start + micro_sequences]
            part_K = self._loss(part) * (part.shape[1] / sequences)
            # Models share no weight, so the gradient of the sum is that of each model alone.
            part_K.sum().backward()  # type: ignore[no-untyped-call]
            loss_K += part_K.detach()
        self.optimiser.step()
        return loss_K

    def _loss(self, ids_KBT: Tensor) -> Tensor:
        hidden_KND = self._hidden(ids_KBT[:, :, :-1])
        target_KN = ids_KBT[:, :, 1:].flatten(1)
        return head_loss(hidden_KND, self.weights["head"], target_KN, self._chunk())

    def _hidden(self, ids_KBT: Tensor) -> Tensor:
        weights: Weights = {
            name: weight.to(self.settings.compute) for name, weight in self.weights.items()
        }
        return hidden_states(weights, ids_KBT, self.settings.shape)

    def _chunk(self) -> int:
        return chunk_tokens(self.models, self.settings.shape.vocabulary, self.settings.device)

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
        hidden_KND = self._hidden(ids_KBT[:, :, :-1])
        target_KN = ids_KBT[:, :, 1:].flatten(1)
        losses_KN = token_losses(hidden_KND, self.weights["head"], target_KN, self._chunk())
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
        for numbers, batch in rows.batches(most_tokens):
            losses_KBT = self.row_losses(batch)
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

    @torch.no_grad()
    def load(self, state: Weights) -> None:
        """Resume from a state of the same number of models."""
        optimiser = self.optimiser
        for name, weight in self.weights.items():
            weight.copy_(state[f"weight.{name}"])
            optimiser.first[name].copy_(state[f"first.{name}"])
            optimiser.second[name].copy_(state[f"second.{name}"])
        optimiser.alive_K = state["alive"].to(self.settings.device)
        optimiser.failed_step_K = state["failed_step"].to(self.settings.device)
        optimiser.step_number = int(state["step"][0])
