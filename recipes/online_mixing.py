"""Train a nano model on a mixture that follows its own losses, by ODM or by ADO.

    python recipes/online_mixing.py my-mix.yaml --method odm --steps 200

Both controllers are functions that `curate.load(..., weights=controller)` asks before every step.
Copy the one you need into your trainer: after each step it observes the mean loss of each domain
in the batch, over all ranks, and its `state_dict` goes into your checkpoint beside the loader's.
The trainer below is as small as one can be, and needs torch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.signal import savgol_filter
from torch.nn.functional import cross_entropy

import curate
from curate.proxy.model import hidden_states, initial_weights
from curate.proxy.shape import find_preset


class Odm:
    """Online Data Mixing: a bandit that prefers the domains of high loss.

    With K domains, exploration e_t = min(1 / K, sqrt(ln K / (K t))) and rewards R,

        pi_i(t) = (1 - K e_t) exp(e_{t-1} R_i) / sum_j exp(e_{t-1} R_j) + e_t
        R_i <- a R_i + (1 - a) L_i / pi_i(t)    for each domain i in the batch

    Noise has a high loss that never falls, and so gets a high share: keep it out of the mixture.

    Differs from the paper: a batch holds all domains in proportion to pi, in place of one domain
    drawn for each micro-batch.

    References:
        Albalak et al. 2023, "Efficient Online Data Mixing For Language Model Pre-Training",
        arXiv:2312.02406, Algorithm 1; a = 0.9 there.
    """

    def __init__(self, domains: Sequence[str], smoothing: float = 0.9) -> None:
        """Begin with equal shares.

        Args:
            domains: Names of the domains.
            smoothing: Weight of the past in the rewards, a, between 0 and 1.
        """
        self.rewards = dict.fromkeys(domains, 0.0)
        self.shares = dict.fromkeys(domains, 1 / len(domains))
        self.smoothing = smoothing
        self.step = 0

    def observe(self, losses: Mapping[str, float]) -> None:
        """Take in the mean loss of each domain in the batch, nats per token."""
        for name, loss in losses.items():
            reward = loss / self.shares[name]
            past = self.rewards[name]
            self.rewards[name] = self.smoothing * past + (1 - self.smoothing) * reward
        self.step += 1

    def exploration(self, step: int) -> float:
        """Return the share that every domain gets in a step, counted from 1."""
        domains = len(self.shares)
        return min(1 / domains, math.sqrt(math.log(domains) / (domains * max(1, step))))

    def __call__(self, loader: Any) -> dict[str, float]:
        """Return the shares of the next step."""
        now, before = self.exploration(self.step + 1), self.exploration(self.step)
        largest = max(self.rewards.values())  # taken off, so that exp does not overflow
        scores = {name: math.exp(before * (r - largest)) for name, r in self.rewards.items()}
        free = 1 - len(scores) * now
        total = sum(scores.values())
        self.shares = {name: free * score / total + now for name, score in scores.items()}
        return self.shares

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next shares depend on."""
        return {"rewards": self.rewards, "shares": self.shares, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.rewards, self.shares = dict(state["rewards"]), dict(state["shares"])
        self.step = state["step"]


class Ado:
    """Adaptive Data Optimization: prefers the domains whose loss falls fastest for each sequence.

    A power law L_k(n) = E_k + B_k n^-A_k of each domain's losses, n its sequences so far, is fitted
    again every `update_steps`. With a prior mu and a moving average h of the shares,

        rho_k  proportional to  mu_k sqrt(h_k) A_k (L_k(n) - E_k) / n, at least 0.01
        pi = 0.1 rho + 0.9 mean of rho over all steps so far

    Before the end of the warm-up pi is the prior.

    Differs from the paper: the law is fitted within bounds in place of penalties beyond them, from
    6 starts in place of a grid of 512. The authors' code counts n over all domains, here as in the
    paper's text it is the domain's own.

    References:
        Jiang et al. 2024, "Adaptive Data Optimization: Dynamic Sample Selection with Scaling Laws",
        arXiv:2410.11820, section 3 and Algorithm 1.
    """

    HISTORY, MEAN, CREDIT, LEAST = 0.9, 0.9, 0.5, 0.01
    """Weights of the past in h and of the mean in pi, the power of h, the least share of rho."""

    def __init__(
        self, prior: Mapping[str, float], warmup_steps: int = 1000, update_steps: int = 1000
    ) -> None:
        """Begin with the prior.

        Args:
            prior: Natural share of each domain, such as its tokens.
            warmup_steps: Steps at the prior; their losses are not fitted.
            update_steps: Steps from one fit to the next.
        """
        self.names = tuple(prior)
        total = sum(prior.values())
        self.prior = np.array([prior[name] / total for name in self.names])
        self.warmup_steps, self.update_steps = warmup_steps, update_steps
        self.history = self.mean = self.shares = self.prior
        self.losses: list[list[float]] = []
        self.counts: list[list[int]] = []
        self.laws: NDArray[np.float64] | None = None

    def observe(self, losses: Mapping[str, float]) -> None:
        """Take in the mean loss of each domain in the batch; one that is absent repeats its last.

        Call it once a step, after the batch and before the next.
        """
        fallback = self.losses[-1] if self.losses else [float(np.mean(list(losses.values())))] * 99
        row = [losses.get(name, fallback[at]) for at, name in enumerate(self.names)]
        self.losses.append([float(loss) for loss in row])

    def __call__(self, loader: Any) -> dict[str, float]:
        """Return the shares of the next step, from the losses and the loader's draws so far."""
        drawn = loader.drawn
        if len(self.losses) > len(self.counts):
            self.counts.append([drawn[name].sequences for name in self.names])
            self.history = self.HISTORY * self.history + (1 - self.HISTORY) * self.shares
        steps = len(self.counts)
        if steps > self.warmup_steps and (steps - self.warmup_steps) % self.update_steps == 0:
            self.laws = self._fit()
        if self.laws is not None:
            rho = self._preference(np.maximum(1, self.counts[-1]))
            self.shares = self.MEAN * self.mean + (1 - self.MEAN) * rho
            self.mean = self.mean + (rho - self.mean) / (steps + 1)
        return dict(zip(self.names, self.shares.tolist(), strict=True))

    def _preference(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        assert self.laws is not None
        _, scale, power = self.laws.T
        reducible = scale * counts**-power
        speed = self.prior * self.history**self.CREDIT * power * reducible / counts
        rho = speed / speed.sum() if speed.sum() > 0 else self.prior
        rho = np.maximum(rho, self.LEAST)
        return rho / rho.sum()

    def _fit(self) -> NDArray[np.float64]:
        """Fit each domain's law to its smoothed losses; return E, B, A, shape (domains, 3)."""
        losses, counts = np.array(self.losses), np.array(self.counts)
        window = min(101, (len(losses) - 1) // 2 * 2 + 1)
        smooth = savgol_filter(losses, window, 3, axis=0) if window > 3 else losses
        rows = slice(self.warmup_steps, None, max(1, len(losses) // 500))
        return np.array([
            fit_law(np.maximum(1, counts[rows, at]), np.maximum(1e-3, smooth[rows, at]))
            for at in range(len(self.names))
        ])  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next shares depend on."""
        arrays = {name: getattr(self, name).tolist() for name in ("history", "mean", "shares")}
        laws = None if self.laws is None else self.laws.tolist()
        return {**arrays, "losses": self.losses, "counts": self.counts, "laws": laws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for name in ("history", "mean", "shares"):
            setattr(self, name, np.array(state[name]))
        self.losses, self.counts = list(state["losses"]), list(state["counts"])
        self.laws = None if state["laws"] is None else np.array(state["laws"])


def fit_law(counts: NDArray[np.int64], losses: NDArray[np.float64]) -> tuple[float, float, float]:
    """Fit L = E + B n^-A to losses, by the Huber loss (0.001) of ln L.

    Args:
        counts: shape (steps,), n, at least 1.
        losses: shape (steps,), nats per token, positive.

    Returns:
        E, B and A.
    """
    log_counts, log_losses = np.log(counts), np.log(losses)

    def miss(parameters: NDArray[np.float64]) -> float:
        log_floor, log_scale, power = parameters
        off = np.abs(np.logaddexp(log_floor, log_scale - power * log_counts) - log_losses)
        return float(np.where(off > 1e-3, 1e-3 * (off - 5e-4), off**2 / 2).sum() * 1e3)

    bounds = [(math.log(0.5), log_losses.max()), (-2.0, 6.5), (1e-3, 0.8)]
    start = log_losses.min()
    starts = [(start - below, 1.0, power) for below in (0.05, 0.7) for power in (0.1, 0.3, 0.6)]
    fits = [minimize(miss, np.clip(x, *zip(*bounds, strict=True)), bounds=bounds) for x in starts]
    best = min(fits, key=lambda fit: fit.fun).x
    return math.exp(best[0]), math.exp(best[1]), float(best[2])


class Trainer:
    """A nano model, its optimiser and its data; a step is a batch."""

    def __init__(self, data: Any, controller: Odm | Ado | None, batch: int = 8) -> None:
        """Draw the weights of the model.

        Args:
            data: From `curate.load` with weights, and fields tokens, labels and domains.
            controller: Gives the weights; None keeps those that the data begin with.
            batch: Sequences of a batch.
        """
        self.data, self.controller = data, controller
        self.loader = data.torch_loader(batch)
        if controller is not None:
            self.loader.set_weights(controller)
        preset = find_preset("nano")
        self.shape = preset.sized(data.vocabulary)
        self.weights = initial_weights(self.shape, [0], torch.device("cpu"))
        for weight in self.weights.values():
            weight.requires_grad_()
        rate = preset.training.learning_rate
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=rate)

    def train(self, steps: int) -> list[dict[str, float]]:
        """Train for some steps, over as many epochs as they take; return each step's losses."""
        history: list[dict[str, float]] = []
        while len(history) < steps:
            for batch in self.loader:
                history.append(self._step(batch))
                if self.controller is not None:
                    self.controller.observe(history[-1])
                if len(history) == steps:
                    break
        return history

    def _step(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Update the model; return the mean loss of each domain in the batch, nats per token."""
        hidden = hidden_states(self.weights, batch["tokens"][None], self.shape)
        logits = hidden[0] @ self.weights["head"][0].T
        losses = cross_entropy(logits, batch["labels"].flatten(), reduction="none")
        self.optimiser.zero_grad()
        losses.mean().backward()
        self.optimiser.step()
        # With several ranks, add up sums and counts over them before the division.
        owners = batch["domains"][:, 0]  # a sequence holds one domain
        by_sequence = losses.detach().view(len(owners), -1).mean(1)
        return {
            self.data.domains[int(domain)]: float(by_sequence[owners == domain].mean())
            for domain in torch.unique(owners)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training goes on from."""
        controller = None if self.controller is None else self.controller.state_dict()
        return {
            "weights": {name: weight.detach().clone() for name, weight in self.weights.items()},
            "optimiser": self.optimiser.state_dict(),
            "loader": self.loader.state_dict(),
            "controller": controller,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        for name, weight in self.weights.items():
            weight.data.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.loader.load_state_dict(state["loader"])
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])


def main() -> None:
    """Train, and print what was asked and drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", help="recipe, or directory of a build")
    parser.add_argument("--method", choices=["odm", "ado", "planned"], default="odm")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a batch")
    options = parser.parse_args()

    fields = ("tokens", "labels", "domains")
    data = curate.load(options.source, options.length, fields=fields, weights="planned")
    controller: Odm | Ado | None = None
    if options.method == "odm":
        controller = Odm(data.domains)
    elif options.method == "ado":
        period = max(10, options.steps // 10)
        prior = data.loader(1).weights
        controller = Ado(prior, warmup_steps=period, update_steps=period)
    trainer = Trainer(data, controller, options.batch)
    history = trainer.train(options.steps)
    print(f"{'domain':16} {'asked':>9} {'drawn':>7} {'share':>7} {'passes':>7} {'last loss':>9}")
    total = sum(row.sequences for row in trainer.loader.drawn.values())
    for name, row in trainer.loader.drawn.items():
        last = next((losses[name] for losses in reversed(history) if name in losses), math.nan)
        print(
            f"{name:16} {row.asked_sequences:9.2f} {row.sequences:7} {row.sequences / total:7.4f} "
            f"{row.passes:7.3f} {last:9.3f}"
        )


if __name__ == "__main__":
    main()
