"""Gradient-boosted trees (LightGBM), with RegMix's settings and with settings safe for few runs.

Trees have no gradient, and predict no losses beyond those they were fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from curate.errors import FitError
from curate.laws.fitting.features import Progress, progress_of
from curate.laws.law import Array, Law, RunTable

if TYPE_CHECKING:
    from curate.laws.fitting.tree_prediction import Forest

TREES = 1000
SETTINGS = {
    "boosting_type": "gbdt",
    "objective": "regression",
    "metric": ["l1", "l2"],
    "learning_rate": 1e-2,
    "seed": 42,
    "verbosity": -1,
    # Not RegMix's: threads of LightGBM on a busy machine make a fit of one second take thirty.
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
}
"""RegMix's notebook; what it does not name is LightGBM's default (31 leaves)."""
STOPPING_ROUNDS = 3
ROWS_WORTH_READING = 2_000
"""Rows from which reading the trees (0.15 s a target) and `Forest.predict` (2 us a row and target)
take less than LightGBM's own prediction (50 us)."""
REGMIX_LEAF_RUNS = 20
"""LightGBM's default: below 40 rows no split is possible, and the prediction is a constant."""
SAFE_LEAF_RUNS = 5
"""At 101 runs of olmix's 24 domains, 20 gives a rank correlation of .24 and 5 gives .95; at
RegMix's 512 it costs .002."""


@dataclass(frozen=True)
class FittedBoosted:
    """One model for each target."""

    order: tuple[int, ...]
    """Columns of the weights sorted by name, so that the order of domains does not decide ties."""
    progress: Progress
    models: tuple[Any, ...]

    def predict(self, weights: Array, tokens: Array, params: Array) -> Array:
        """Predict with one ensemble of trees for each target.

        Args:
            weights: shape (rows, domains), shares of training tokens; each row sums to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.

        Returns:
            Shape (rows, targets), in the unit of the fitted table.
        """
        rows = _design(weights, tokens, params, self.order, self.progress)
        if len(rows) >= ROWS_WORTH_READING:
            return self._forest.predict(rows)
        return np.stack([model.predict(rows, num_threads=1) for model in self.models], axis=1)

    def gradient(self, weights: Array, tokens: Array, params: Array) -> None:
        """Return None: trees are constant almost everywhere.

        Args:
            weights: shape (rows, domains); free numbers, which need not sum to 1.
            tokens: shape (rows,), training tokens; NaN where the fitted table had NaN.
            params: shape (rows,), parameters of the model; NaN where the fitted table had NaN.
        """

    @cached_property
    def _forest(self) -> Forest:
        # Imports numba, which takes half a second.
        from curate.laws.fitting.tree_prediction import forest_of

        return forest_of(self.models)


def fit_boosted(table: RunTable) -> FittedBoosted:
    """Fit with at least 5 rows in a leaf, or fewer where there are fewer than 20 rows.

    References:
        Liu et al. 2024, "RegMix", arXiv:2407.01492v2.

    Differs from the paper: smaller leaves, no early stopping on the runs that are reported.
    """
    return fit_trees(table, max(1, min(SAFE_LEAF_RUNS, len(table.runs) // 4)))


def fit_boosted_regmix(table: RunTable) -> FittedBoosted:
    """Fit with RegMix's settings and all 1000 trees; needs more than 40 rows to split at all.

    Raises:
        FitError: There are fewer than 40 rows, on which it would be the mean.

    References:
        Liu et al. 2024, "RegMix", arXiv:2407.01492v2, and its released notebook.

    Differs from the paper: no early stopping. The notebook stops after 3 trees without gain on the
    very runs that it reports on; `fit_trees` does so if given them as `held_out`.
    """
    if len(table.runs) < 2 * REGMIX_LEAF_RUNS:
        raise FitError(
            f"boosted_regmix: {len(table.runs)} rows, but leaves of {REGMIX_LEAF_RUNS} rows need "
            f"at least {2 * REGMIX_LEAF_RUNS} to split; use --laws boosted, or train more runs"
        )
    return fit_trees(table, REGMIX_LEAF_RUNS)


def fit_trees(table: RunTable, leaf_runs: int, held_out: RunTable | None = None) -> FittedBoosted:
    """Fit a model for each target.

    Args:
        table: The runs to fit.
        leaf_runs: Fewest rows in a leaf.
        held_out: Runs on which to stop after 3 trees without gain in absolute or squared error;
            RegMix's notebook gives those it reports on. None: all 1000 trees.

    Returns:
        The fitted trees.

    Raises:
        FitError: LightGBM is not installed.
    """
    if find_spec("lightgbm") is None:
        raise FitError("boosted: needs LightGBM; type: pip install 'curate-mix[laws]'")
    import lightgbm

    progress = progress_of(table)
    order = tuple(int(i) for i in np.argsort(np.array(table.domains), kind="stable"))
    rows = _design(table.weights, table.tokens, table.params, order, progress)
    models = []
    for target in range(len(table.targets)):
        data = lightgbm.Dataset(rows, table.losses[:, target])
        checks: dict[str, Any] = {}
        if held_out is not None:
            others = _design(held_out.weights, held_out.tokens, held_out.params, order, progress)
            checks["valid_sets"] = [
                lightgbm.Dataset(others, held_out.losses[:, target], reference=data)
            ]
            checks["callbacks"] = [lightgbm.early_stopping(STOPPING_ROUNDS, verbose=False)]
        settings = {**SETTINGS, "min_child_samples": leaf_runs}
        models.append(lightgbm.train(settings, data, TREES, **checks))
    return FittedBoosted(order, progress, tuple(models))


def _design(
    weights: Array, tokens: Array, params: Array, order: tuple[int, ...], progress: Progress
) -> Array:
    return np.concatenate([weights[:, order], progress.columns(tokens, params)], axis=1)


BOOSTED = Law(
    name="boosted",
    summary="boosted trees (LightGBM) with small leaves",
    paper="after RegMix, Liu et al. 2024, arXiv:2407.01492v2",
    needs="LightGBM; runs, better with more than 100",
    fit=fit_boosted,
)

BOOSTED_REGMIX = Law(
    name="boosted_regmix",
    summary="boosted trees (LightGBM) with RegMix's settings",
    paper="RegMix, Liu et al. 2024, arXiv:2407.01492v2",
    needs="LightGBM; 40 rows, better with more than 250",
    fit=fit_boosted_regmix,
)
