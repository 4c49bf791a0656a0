"""Levels beyond the runs on planted tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from curate.laws.fitting.levels import FORMS, FittedBeyond, LevelPoints, fit_form, fit_levels
from curate.laws.forms.joint import fit_joint, fit_joint_beyond
from curate.laws.law import RunTable

SIZES = np.array([7e7, 1.6e8, 3.6e8])
BILLIONS = np.array([2.0, 5.0, 10.0, 20.0])


def losses(weights, params, billions):
    """Chinchilla's law with a mixture effect, three targets."""
    mixed = (weights @ np.array([[1.0, 0.2, 0.1], [0.3, 1, 0.2], [0.1, 0.1, 1]]) + 0.05) ** -0.3
    larger = np.array([0.5, 0.6, 0.4]) * (params[:, None] / 1e8) ** -np.array([0.3, 0.34, 0.38])
    later = np.array([0.4, 0.5, 0.3]) * billions[:, None] ** -np.array([0.3, 0.35, 0.28])
    return np.array([1.5, 1.7, 1.2]) + 0.4 * mixed + larger + later


def planted(sizes=SIZES, billions=BILLIONS, seed=0):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(3), 10)
    place = np.indices((10, len(sizes), len(billions))).reshape(3, -1)
    weights, params, tokens = shares[place[0]], sizes[place[1]], billions[place[2]]
    seen = losses(weights, params, tokens)
    names = ("a", "b", "c")
    runs = tuple(f"{mixture}-{size}" for mixture, size in zip(place[0], place[1], strict=True))
    noisy = seen * np.exp(rng.normal(0, 1e-3, seen.shape))
    return RunTable(names, names, runs, weights, tokens * 1e9, params, noisy)


@pytest.fixture(scope="module")
def fitted():
    return fit_joint_beyond(planted())


def beyond(factor, count=12, billions=20.0):
    weights = np.random.default_rng(5).dirichlet(np.ones(3), count)
    params, tokens = np.full(count, SIZES[-1] * factor), np.full(count, billions)
    return (weights, tokens * 1e9, params), losses(weights, params, tokens)


def test_levels_beyond_the_largest_size_and_the_last_tokens(fitted):
    for factor, billions, bar in ((4, 20.0, 0.004), (20, 20.0, 0.012), (1, 80.0, 0.004)):
        rows, truth = beyond(factor, billions=billions)
        off = np.log(fitted.predict(*rows) / truth)
        assert np.abs(off.mean(axis=0)).max() < bar
        covered = np.abs(off) < 1.96 * fitted.predict_std(*rows)
        assert covered.mean() > 0.85
        # A dummy that keeps the level of the largest size and the last tokens fails the bar.
        held = fitted.predict(rows[0], np.full(12, 2e10), np.full(12, SIZES[-1]))
        assert np.abs(np.log(held / truth).mean(axis=0)).min() > 2 * bar


def test_predictions_among_the_runs_are_the_laws_and_continue_at_the_edge(fitted):
    assert isinstance(fitted, FittedBeyond)
    rows, _ = beyond(1)
    np.testing.assert_array_equal(fitted.predict(*rows), fitted.law.predict(*rows))
    for move in (rows[0], rows[1], rows[2] * 1.0001), (rows[0], rows[1] * 1.0001, rows[2]):
        np.testing.assert_allclose(fitted.predict(*move), fitted.predict(*rows), rtol=1e-4)


def test_gradient_beyond_is_that_of_the_predictions(fitted):
    (weights, tokens, params), _ = beyond(6, billions=40.0)
    slopes = fitted.gradient(weights, tokens, params)
    for domain in range(3):
        step = np.zeros(3)
        step[domain] = 1e-5
        ahead, behind = (
            fitted.predict(weights + way * step, tokens, params) for way in (1, -1)
        )  # fmt: skip
        np.testing.assert_allclose(slopes[:, :, domain], (ahead - behind) / 2e-5, rtol=1e-4)


def test_intervals_widen_with_distance(fitted):
    spreads = [fitted.predict_std(*beyond(factor)[0]).mean() for factor in (1, 2, 4, 20, 100)]
    assert (np.diff(spreads) > 0).all() and spreads[-1] > 5 * spreads[0]


def test_two_sizes_say_little_of_a_third():
    few = fit_joint_beyond(planted(SIZES[1:]))
    many = fit_joint_beyond(planted(np.array([3e7, 7e7, 1.6e8, 3.6e8])))
    rows, truth = beyond(8)
    assert few.predict_std(*rows).mean() > 1.5 * many.predict_std(*rows).mean()
    assert (np.abs(np.log(few.predict(*rows) / truth)) < 2.5 * few.predict_std(*rows)).all()


def test_one_size_without_checkpoints_is_left_to_the_law():
    table = planted(SIZES[:1], BILLIONS[-1:])
    nothing = np.full(len(table.runs), np.nan)
    law = fit_joint_beyond(replace(table, tokens=nothing, params=nothing))
    assert type(law) is type(fit_joint(table))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_each_form_continues_its_own_curve(form):
    """A curve of the form itself, without noise: 8 times beyond it misses by under 0.3 %."""
    size, time = (axis.ravel() for axis in np.meshgrid(np.log([0.05, 0.2, 0.45, 1]), np.log(
        [0.1, 0.3, 0.6, 1])))  # fmt: skip
    node = {"power": [0.0, 0.0]}.get(form.name, [0.33, 0.28])
    coefficients = {"product": [1, 0.08]}.get(form.name, [1, 0.05, 0.04])
    coefficients = [*coefficients, *[0.01] * form.interacts]
    coefficients[0] = 0.0 if form.logs else 1.0

    def curve(size, time):
        level = form.columns(np.array([node]), size, time)[0] @ np.array(coefficients)
        return np.exp(level) if form.logs else level

    points = LevelPoints(size, time, curve(size, time)[:, None])
    (fit,) = fit_form(form, points)
    start, end = (np.zeros(1), np.zeros(1)), (np.log([8.0]), np.zeros(1))
    mean, _ = fit.shift(form, start, end)
    assert mean[0] == pytest.approx(np.log(curve(*end) / curve(*start))[0], abs=3e-3)
    ensemble = fit_levels(points)
    assert ensemble.shift(start, end)[0][0, 0] == pytest.approx(mean[0], abs=1e-2)
