"""Optima with known answers, certificates, constraints, and the trust region."""

import dataclasses

import numpy as np
import pytest
from mixing_laws import (
    BIMIX_EXPONENTS,
    Linear,
    LogLinear,
    PowerLaw,
    Steps,
    TwoValleys,
    WithTokens,
    bimix_scales,
)

from curate.errors import FitError
from curate.mixture.search.bimix_optimum import power_optimum
from curate.mixture.search.descent import Ball, descend
from curate.mixture.search.objective import Problem, losses_at, slopes_at, value_at
from curate.mixture.search.optimise import certificate, optimise
from curate.mixture.search.simplex_box import (
    Box,
    best_corner,
    nearest,
    nearest_in_proportion,
    whole,
)
from curate.mixture.search.trust_region import check_support, hellinger, support_of, support_warning
from curate.mixture.simplex import project_capped

PUBLISHED = [0.1527, 0.0944, 0.0987, 0.1212, 0.0991, 0.1393, 0.2947]


def random_box(rng, count):
    high = np.minimum(rng.dirichlet(np.ones(count)) * rng.uniform(1.5, 4), 1)
    high = high / min(1, high.sum())
    return Box(high * rng.uniform(0, 0.3, count), high)


def plain(law, domains, targets, **settings):
    return Problem(law, whole(domains), np.full((1, targets), 1 / targets), **settings)


# --- floors and caps


def test_projections_stay_in_the_box_and_are_nearest(runslow):
    rng = np.random.default_rng(0)
    for _ in range(100 if runslow else 40):
        count = int(rng.integers(1, 15))
        box = random_box(rng, count)
        point = rng.normal(0, 1, count)
        weights = rng.dirichlet(np.full(count, 0.3))
        flat, scaled = nearest(point, box), nearest_in_proportion(weights, box)
        for found in (flat, scaled, best_corner(point, box)):
            assert found.sum() == pytest.approx(1, abs=1e-12)
            assert np.all(found >= box.low - 1e-15) and np.all(found <= box.high + 1e-15)
        for _ in range(20):
            other = nearest(rng.normal(0, 1, count), box)
            # The angle from the nearest point to any other is at least a right angle.
            assert (point - flat) @ (other - flat) <= 1e-9
            assert point @ best_corner(point, box) <= point @ other + 1e-12
            inner = 0.5 * scaled + 0.5 * other
            assert (
                weights @ np.log(np.maximum(inner, 1e-300))
                <= weights @ np.log(np.maximum(scaled, 1e-300)) + 1e-12
            )


def test_proportional_projection_equals_the_exact_one():
    rng = np.random.default_rng(1)
    for _ in range(50):
        count = int(rng.integers(2, 12))
        box = dataclasses.replace(random_box(rng, count), low=np.zeros(count))
        weights = rng.dirichlet(np.ones(count))
        exact = project_capped(weights.tolist(), box.high.tolist())
        assert nearest_in_proportion(weights, box) == pytest.approx(exact, abs=1e-12)


def test_no_box_without_shares():
    with pytest.raises(ValueError, match="floors sum to 1.2, caps to 2"):
        Box(np.array([0.6, 0.6]), np.ones(2))
    with pytest.raises(ValueError, match="floors sum to 0, caps to 0.8"):
        Box(np.zeros(2), np.full(2, 0.4))
    with pytest.raises(ValueError, match="0 <= low <= high"):
        Box(np.array([0.6, 0.0]), np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="one shape"):
        Box(np.zeros(2), np.ones(3))


# --- BiMix


def test_bimix_optimum_to_four_decimals():
    scales = bimix_scales(20.0)
    found = power_optimum(scales, BIMIX_EXPONENTS, whole(7))
    assert found.round(4).tolist() == PUBLISHED
    assert (scales * found**-BIMIX_EXPONENTS).sum() == pytest.approx(17.13333, abs=5e-6)
    # The multiplier is the slope that all domains share.
    slopes = BIMIX_EXPONENTS * scales * found ** (-BIMIX_EXPONENTS - 1)
    assert slopes == pytest.approx(np.full(7, 0.68552), abs=5e-6)


def test_bimix_optimum_ignores_how_coefficients_are_split():
    expected = power_optimum(bimix_scales(20.0), BIMIX_EXPONENTS, whole(7))
    for factor in (1e-6, 0.3, 1e9):
        found = power_optimum(bimix_scales(20.0) * factor, BIMIX_EXPONENTS, whole(7))
        assert found == pytest.approx(expected, rel=1e-12)


def power_gap(shares, scales, exponents, box):
    """Bound how far shares are from the least sum_i K_i r_i^(-a_i): Frank and Wolfe's gap."""
    slopes = -scales * exponents * np.maximum(shares, 1e-300) ** (-exponents - 1)
    return float(slopes @ (shares - best_corner(slopes, box)))


def test_general_solver_agrees_with_the_closed_form():
    rng = np.random.default_rng(2)
    for _ in range(10):
        count = int(rng.integers(2, 10))
        scales, exponents = rng.uniform(1, 4, count), rng.uniform(0.02, 0.3, count)
        box = random_box(rng, count)
        exact = power_optimum(scales, exponents, box)
        assert power_gap(exact, scales, exponents, box) < 1e-9
        law = PowerLaw(scales, exponents)
        found = optimise(Problem(law, box, np.ones((1, count)), convex=True))
        assert found.gap is not None and found.gap < 1e-5
        assert found.weights == pytest.approx(exact, abs=2e-4)


def test_power_optimum_with_useless_domains():
    # Nothing is gained by the third domain, so it gets its floor.
    box = Box(np.array([0, 0, 0.1]), np.ones(3))
    found = power_optimum(np.array([1.0, 1, 1]), np.array([0.1, 0.1, 0]), box)
    assert found == pytest.approx([0.45, 0.45, 0.1])
    # The only useful one is at its cap; the others share what is left by their room.
    box = Box(np.zeros(3), np.array([0.2, 1, 1]))
    assert power_optimum(np.array([1.0, 0, 0]), np.full(3, 0.1), box) == pytest.approx(
        [0.2, 0.4, 0.4]
    )


@pytest.mark.parametrize(
    ("scales", "exponents", "message"),
    [([-1, 1], [1, 1], "scales of at"), ([1, 1], [np.nan, 1], "exponents"), ([1], [1], "shapes")],
)
def test_power_optimum_refuses(scales, exponents, message):
    with pytest.raises(ValueError, match=message):
        power_optimum(np.array(scales, float), np.array(exponents, float), whole(2))


# --- any law


def log_linear(rng, targets, domains):
    return LogLinear(rng.uniform(1, 2, targets), rng.normal(0, 1.5, (targets, domains)))


def test_convex_optimum_is_certified_and_better_than_any_other(runslow):
    rng = np.random.default_rng(3)
    for worst in (False, True):
        for _ in range(6 if runslow else 3):
            domains, targets = int(rng.integers(2, 9)), int(rng.integers(1, 6))
            law = log_linear(rng, targets, domains)
            goals = np.eye(targets) if worst else np.ones((1, targets))
            problem = Problem(law, random_box(rng, domains), goals, convex=True)
            found = optimise(problem)
            assert found.gap is not None and -1e-9 < found.gap < 1e-5
            others = np.array([nearest(rng.normal(0, 1, domains), problem.box) for _ in range(300)])
            assert value_at(problem, others).min() >= found.value - 1e-9


def test_certificate_finds_a_bad_answer():
    problem = plain(LogLinear(np.ones(1), np.array([[-1.0, 0.0]])), 2, 1)
    # At equal shares the slope is -e^-.5 along the first; a step of 1/2 could gain half of that.
    assert certificate(problem, np.array([0.5, 0.5])) == pytest.approx(0.5 * np.exp(-0.5))
    assert certificate(problem, np.array([1.0, 0.0])) == pytest.approx(0)
    twice = dataclasses.replace(problem, goals=np.array([[1.0], [0.5]]))
    assert certificate(twice, np.array([0.5, 0.5])) == pytest.approx(0.5 * np.exp(-0.5))
    assert certificate(plain(Steps(np.full(2, 0.5)), 2, 1), np.array([0.5, 0.5])) is None


def test_worst_case_balances_the_losses():
    # Two domains, each lowering its own loss: the worst case is least where both are equal.
    law = PowerLaw(np.array([2.0, 1.0]), np.array([0.5, 0.5]))
    problem = Problem(law, whole(2), np.eye(2), convex=True)
    found = optimise(problem)
    assert found.losses[0] == pytest.approx(found.losses[1], rel=1e-6)
    assert found.weights == pytest.approx([0.8, 0.2], abs=1e-6)
    # A target that is in no goal does not count.
    one = dataclasses.replace(problem, goals=np.eye(2)[:1])
    assert optimise(one).weights == pytest.approx([1, 0], abs=1e-4)


def test_one_target_takes_its_domain_up_to_the_cap():
    law = PowerLaw(np.ones(3), np.full(3, 0.1))
    box = Box(np.array([0.05, 0.1, 0.0]), np.array([0.6, 1, 1]))
    found = optimise(Problem(law, box, np.array([[1.0, 0, 0]]), convex=True))
    assert found.weights[0] == pytest.approx(0.6) and found.weights[1] >= 0.1 - 1e-12


def test_kl_pulls_to_the_prior():
    # min t . w + k KL(w || p) has the closed form w ~ p exp(-t / k).
    rates, prior = np.array([[-1.0, 0.0, 1.0]]), np.array([0.2, 0.3, 0.5])
    problem = plain(Linear(np.ones(1), rates), 3, 1, kl=0.7, prior=prior, convex=True)
    found = optimise(problem)
    expected = prior * np.exp(-rates[0] / 0.7)
    assert found.weights == pytest.approx(expected / expected.sum(), abs=1e-6)
    assert found.gap is not None and found.gap < 1e-7


def test_the_deeper_valley_is_found():
    assert optimise(plain(TwoValleys(), 3, 1)).weights[0] == pytest.approx(0.8, abs=1e-3)
    # A single start is caught in the shallow one, so the several do matter.
    caught = optimise(plain(TwoValleys(), 3, 1, convex=True, prior=np.array([0.2, 0.4, 0.4])))
    assert caught.weights[0] == pytest.approx(0.2, abs=1e-2)


def test_a_law_without_gradient_is_searched():
    middle = np.array([0.5, 0.2, 0.2, 0.1])
    found = optimise(plain(Steps(middle), 4, 1))
    assert found.gap is None
    assert np.abs(found.weights - middle).sum() < 0.05
    box = Box(np.zeros(4), np.array([0.3, 1, 1, 1]))
    capped = optimise(Problem(Steps(middle), box, np.ones((1, 1))))
    assert capped.weights[0] <= 0.3


def test_answers_repeat_and_follow_the_order_of_domains():
    rng = np.random.default_rng(4)
    law = log_linear(rng, 3, 5)
    order = rng.permutation(5)
    problem = plain(law, 5, 3, convex=True)
    turned = plain(LogLinear(law.floors, law.rates[:, order]), 5, 3, convex=True)
    found = optimise(problem)
    assert np.array_equal(found.weights, optimise(problem).weights)
    assert optimise(turned).weights == pytest.approx(found.weights[order], abs=1e-4)


def test_a_law_of_nothing_finite_is_refused():
    law = LogLinear(np.array([np.nan]), np.zeros((1, 2)))
    with pytest.raises(FitError, match="no finite loss within the caps"):
        optimise(plain(law, 2, 1))


# --- discounted repetition


def test_slopes_with_discount_match_differences():
    rng = np.random.default_rng(5)
    law = WithTokens(log_linear(rng, 3, 4))
    unique = np.array([0.02, 0.1, 1.0, 0.3])
    for tokens in (np.nan, 1e9):
        chosen = law.inner if np.isnan(tokens) else law
        problem = plain(chosen, 4, 3, unique_share=unique, tokens=tokens)
        weights = rng.dirichlet(np.ones(4))
        slopes = slopes_at(problem, weights)
        for domain in range(4):
            step = np.zeros(4)
            step[domain] = 1e-6
            around = losses_at(problem, np.array([weights + step, weights - step]))
            assert slopes[:, domain] == pytest.approx((around[0] - around[1]) / 2e-6, abs=1e-5)


def test_discount_lowers_the_share_of_what_must_repeat():
    law = WithTokens(LogLinear(np.ones(1), np.array([[-1.0, -0.8]])))
    plainly = optimise(plain(law, 2, 1, tokens=1e9, convex=True))
    scarce = np.array([0.02, 5.0])
    discounted = optimise(plain(law, 2, 1, tokens=1e9, unique_share=scarce))
    assert plainly.weights[0] == pytest.approx(1)
    assert discounted.weights[0] < 0.9
    ample = optimise(plain(law, 2, 1, tokens=1e9, unique_share=np.array([5.0, 5.0])))
    assert ample.weights == pytest.approx(plainly.weights, abs=1e-6)


# --- support


def test_hellinger_by_hand():
    found = hellinger(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.5, 0.5]]))
    assert found[:, 0] == pytest.approx([0, np.sqrt(1 - np.sqrt(0.5))], abs=1e-7)


def test_held_out_mixtures_are_inside_and_corners_are_not():
    rng = np.random.default_rng(6)
    draws = rng.dirichlet(np.full(6, 3.0), 600)
    support = support_of(draws[:300])
    names = list("abcdef")
    inside = [check_support(draw, support, names).inside for draw in draws[300:]]
    assert 0.9 < np.mean(inside) < 1  # by construction near 95 %
    for domain in range(6):
        check = check_support(np.eye(6)[domain], support, names)
        assert not check.inside and names[domain] in check.outside_range
        assert "outside the data: the nearest run is" in support_warning(check, "do that")
        assert f"'{names[domain]}' 1 (trained" in support_warning(check, "do that")
    assert support_warning(check_support(draws[0], support, names), "do that") is None


def test_repeated_runs_are_one_mixture():
    same = np.full((5, 2), 0.5)
    support = support_of(same)
    assert support.radius == 0 and len(support.mixtures) == 1
    assert check_support(np.array([0.5, 0.5]), support, "ab").inside
    with pytest.raises(ValueError, match="at least one"):
        support_of(np.empty((0, 2)))


def test_trust_region_holds_a_law_that_wants_a_corner():
    rng = np.random.default_rng(7)
    support = support_of(rng.dirichlet(np.full(5, 4.0), 60))
    law = Linear(np.full(1, 4.0), np.array([[-3.0, 0, 0, 0, 0.1]]))
    held = optimise(plain(law, 5, 1, support=support))
    free = optimise(plain(law, 5, 1))
    assert free.weights[0] == pytest.approx(1) and not free.trust_region_binds
    assert held.trust_region_binds and held.unconstrained == pytest.approx(free.weights, abs=1e-6)
    check = check_support(held.weights, support, "abcde")
    assert check.inside and check.distance == pytest.approx(support.radius, rel=1e-3)
    # As good as the best run at least, and better than every trained mixture here.
    runs = losses_at(plain(law, 5, 1), support.mixtures)
    assert held.value < runs.min()
    # No point of any ball is better, by dense sampling.
    near = rng.dirichlet(np.full(5, 4.0), 40_000)
    near = near[hellinger(near, support.mixtures).min(axis=1) <= support.radius]
    assert losses_at(plain(law, 5, 1), near).min() >= held.value - 1e-6


def test_the_edge_of_a_ball_takes_few_evaluations():
    """(a, b) at Hellinger distance r of (1/2, 1/2): sqrt(a/2) + sqrt(b/2) = 1 - r^2."""
    calls = []

    class Counted(Linear):
        def predict(self, weights, tokens, params):
            calls.append(len(weights))
            return super().predict(weights, tokens, params)

    law = Counted(np.array([2.0]), np.array([[0.3, -0.2]]))
    problem = Problem(law, whole(2), np.ones((1, 1)), convex=True)
    found = descend(problem, np.array([0.5, 0.5]), Ball(np.array([0.5, 0.5]), 0.1))
    root = (0.99 - np.sqrt(1 - 0.99**2)) / np.sqrt(2)
    assert found[0] == pytest.approx(root**2, abs=1e-6)
    assert len(calls) < 700


def test_trust_region_does_nothing_inside():
    rng = np.random.default_rng(8)
    support = support_of(rng.dirichlet(np.full(3, 2.0), 200))
    problem = plain(PowerLaw(np.ones(3), np.full(3, 0.1)), 3, 3, convex=True)
    held = optimise(dataclasses.replace(problem, support=support))
    assert not held.trust_region_binds and held.gap < 1e-6
    assert held.weights == pytest.approx(np.full(3, 1 / 3), abs=1e-4)


def test_trust_region_widens_where_caps_exclude_every_run():
    mixtures = np.array([[0.9, 0.05, 0.05], [0.88, 0.07, 0.05], [0.86, 0.04, 0.1]])
    support = support_of(mixtures)
    box = Box(np.zeros(3), np.array([0.2, 1, 1]))
    law = Linear(np.ones(1), np.array([[0.0, -1.0, 1.0]]))
    found = optimise(Problem(law, box, np.ones((1, 1)), support=support))
    assert found.radius > support.radius
    assert found.weights[0] == pytest.approx(0.2, abs=1e-2)
    assert not check_support(found.weights, support, "abc").inside


def test_trust_region_of_a_search():
    rng = np.random.default_rng(9)
    support = support_of(rng.dirichlet(np.full(4, 4.0), 60))
    found = optimise(plain(Steps(np.array([1.0, 0, 0, 0])), 4, 1, support=support))
    assert found.trust_region_binds
    assert check_support(found.weights, support, "abcd").inside
