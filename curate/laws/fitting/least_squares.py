"""Least squares on log losses with weak priors, for all targets at once.

Every target of a law has parameters of its own but shares mixtures and tokens, so one
Levenberg-Marquardt iteration solves small damped systems for all of them in one call. Priors stand
for what is known before any run (an exponent is of order one); they are weighed against the noise
that the residuals themselves show, so they vanish where runs are many and exact, and keep the
answer defined where runs are fewer than parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.laws.law import Array
from curate.runtime.threads import one_blas_thread

Model = Callable[[Array], tuple[Array, Array]]
"""Parameters (targets, parameters) → losses (targets, rows), and their derivatives by the
parameters (targets, rows, parameters)."""

NOISE_START = 0.05
"""Relative error of a first fit; only its order matters."""
NOISE_FLOOR = 1e-6
"""Relative error below which runs count as exact."""
ITERATIONS = 60
"""At most so many for each estimate of the noise; the next one goes on from there."""
ROUNDS = 4
"""Times the noise is estimated again; it changes by less than a few percent after three."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Independent normal priors of the parameters of every target."""

    centre: Array
    """shape (targets, parameters)."""
    spread: Array
    """shape (parameters,), standard deviations; positive, infinity for none."""


@one_blas_thread()
def fit_log_losses(model: Model, prior: Prior, losses: Array) -> Array:
    """Parameters that minimise, for every target on its own, the negative log posterior.

    sum over rows of (ln predicted - ln observed)^2 / s^2 + sum over parameters of
    ((parameter - centre) / spread)^2, starting from the centre; s is the root-mean-square residual
    with the parameters' effective degrees of freedom taken off, found by repeating the fit.

    Args:
        model: The law; losses it returns must be positive near the centre.
        prior: Centres, where the search starts, and spreads.
        losses: shape (rows, targets), positive.

    Returns:
        Shape (targets, parameters).

    Example:
        Doubling along x = 0, 1, 2 is found whatever the vague prior says.

        >>> x = np.array([0.0, 1.0, 2.0])
        >>> def line(theta):
        ...     loss = np.exp(theta * x)
        ...     return loss, (loss * x)[:, :, None]
        >>> prior = Prior(np.zeros((1, 1)), np.ones(1))
        >>> found = fit_log_losses(line, prior, np.array([[1.0], [2.0], [4.0]]))
        >>> round(float(found[0, 0]), 6)
        0.693147
    """
    observed = np.log(losses).T
    theta = prior.centre.copy()
    noise = np.full(len(theta), NOISE_START)
    for _ in range(ROUNDS):
        theta = _minimise(model, theta, prior, observed, noise)
        noise = _noise(model, theta, prior, observed, noise)
    return theta


def _minimise(model: Model, theta: Array, prior: Prior, observed: Array, noise: Array) -> Array:
    """Levenberg-Marquardt with a damping of its own for every target."""
    precision = 1 / prior.spread**2
    damping = np.full(len(theta), 1e-3)
    residual, jacobian = _linearise(model, theta, observed)
    cost = _cost(residual, theta, prior, noise)
    for _ in range(ITERATIONS):
        scale = noise[:, None] ** 2
        gradient = np.einsum("trp,tr->tp", jacobian, residual) / scale
        gradient += precision * (theta - prior.centre)
        hessian = np.matmul(jacobian.transpose(0, 2, 1), jacobian) / scale[:, :, None]
        diagonal = np.einsum("tpp->tp", hessian)
        diagonal += precision
        diagonal *= 1 + damping[:, None]
        diagonal += 1e-12  # a parameter without prior or effect stays where it is
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        # A step of more than 2 in any parameter, most of them logarithms, leaves the linear range.
        step *= np.minimum(1, 2 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-300))
        tried = theta - step
        residual_tried, jacobian_tried = _linearise(model, tried, observed)
        cost_tried = _cost(residual_tried, tried, prior, noise)
        better = cost_tried < cost
        gain = np.where(better, (cost - cost_tried) / cost, 0)
        settled = np.abs(step).max(axis=1) < 1e-9
        theta = np.where(better[:, None], tried, theta)
        residual = np.where(better[:, None], residual_tried, residual)
        jacobian = np.where(better[:, None, None], jacobian_tried, jacobian)
        cost = np.where(better, cost_tried, cost)
        damping = np.where(better, damping / 5, damping * 4).clip(1e-12, 1e12)
        if np.all(settled | (better & (gain < 1e-10)) | (damping >= 1e8)):
            break
    return theta


def _linearise(model: Model, theta: Array, observed: Array) -> tuple[Array, Array]:
    """Residuals of log losses and their derivatives; infinite where a loss is not positive."""
    losses, derivatives = model(theta)
    possible = np.isfinite(losses) & (losses > 0)
    safe = np.where(possible, losses, 1)
    residual = np.where(possible, np.log(safe) - observed, np.inf)
    return residual, derivatives / safe[:, :, None]


def _cost(residual: Array, theta: Array, prior: Prior, noise: Array) -> Array:
    fit = (residual**2).sum(axis=1) / noise**2
    cost: Array = fit + (((theta - prior.centre) / prior.spread) ** 2).sum(axis=1) + 1e-300
    return cost


def _noise(model: Model, theta: Array, prior: Prior, observed: Array, noise: Array) -> Array:
    """Residual error, with as many rows taken off as the parameters effectively use."""
    residual, jacobian = _linearise(model, theta, observed)
    rows = residual.shape[1]
    information = np.matmul(jacobian.transpose(0, 2, 1), jacobian) / (noise**2)[:, None, None]
    posterior = information + np.diag(1 / prior.spread**2 + 1e-12)
    used = np.trace(np.linalg.solve(posterior, information), axis1=1, axis2=2)
    # Where the parameters could use all rows, the residuals say little: half a row is left.
    found: NDArray[np.float64] = np.sqrt(
        (residual**2).sum(axis=1) / np.maximum(rows - used, 0.5)
    ).clip(NOISE_FLOOR, 10)
    return found
