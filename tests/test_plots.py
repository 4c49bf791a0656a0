"""Plots: colours, shapes and labels, the same bytes every time, and what they say of bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import curate
from curate.cli import cli
from curate.errors import InputError
from curate.report import palette
from curate.report.charts import Axes, Chart, Dots, Mark
from curate.report.page.material import Material
from curate.report.page.page import render

pytest.importorskip("matplotlib")
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from curate.report.canvas import DASHES, MARKERS, draw, save

Array = np.ndarray[Any, np.dtype[np.float64]]

SIMULATED = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB."""

LEAST_DIFFERENCE = 11.0
"""CIEDE2000 distance of two colours of a palette; 1 is just noticeable side by side."""

BEFORE = ("#0072b2", "#d55e00", "#007a5a", "#a6447f", "#6b5b00", "#3d4a52")
"""Colours by eye, which a simulation finds too near to each other."""


def linear(colour: str) -> Array:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Array) -> Array:
    """CIELAB of linear sRGB under D65."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
              [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip
    xyz = np.array(to_xyz) @ rgb / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def ciede2000(first: Array, second: Array) -> float:
    """Distance of two colours; Sharma, Wu and Dalal 2005, Eqs. 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = (1 - np.sqrt(mean**7 / (mean**7 + 25**7))) / 2
    c1, c2 = np.hypot((1 + g) * a1, b1), np.hypot((1 + g) * a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, (1 + g) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    hue = (h1 + h2) / 2 if abs(h1 - h2) <= 180 else (h1 + h2 + 360) / 2
    hue = hue % 360 if c1 * c2 else h1 + h2
    waves = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    t = 1 + sum(f * np.cos(np.radians(times * hue + turned)) for f, times, turned in waves)
    rotation = -np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2)))) * (
        2 * np.sqrt(chroma**7 / (chroma**7 + 25**7))
    )
    dl = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    dc, dh = (c2 - c1) / (1 + 0.045 * chroma), dh / (1 + 0.015 * chroma * t)
    return float(np.sqrt(dl**2 + dc**2 + dh**2 + rotation * dc * dh))


def nearest(colours: tuple[str, ...], sight: str) -> float:
    """Distance of the two colours that a reader confuses most easily."""
    seen = [lab(np.clip(np.array(SIMULATED[sight]) @ linear(colour), 0, 1)) for colour in colours]
    return min(ciede2000(first, second) for first, second in combinations(seen, 2))


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_colour_distance_is_that_of_the_published_table(
    first: tuple[float, ...], second: tuple[float, ...], distance: float
) -> None:
    assert ciede2000(np.array(first), np.array(second)) == pytest.approx(distance, abs=1e-4)


@pytest.mark.parametrize("sight", SIMULATED)
@pytest.mark.parametrize("colours", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
def test_colour_blind_readers_tell_colours_apart(colours: tuple[str, ...], sight: str) -> None:
    assert nearest(colours, sight) > LEAST_DIFFERENCE


def test_colours_by_eye_fail_the_same_test() -> None:
    assert min(nearest(BEFORE, sight) for sight in SIMULATED) < 8


@pytest.mark.parametrize(
    ("colours", "paper"),
    [(palette.LIGHT, palette.LIGHT_PAPER), (palette.DARK, palette.DARK_PAPER)],
)
def test_colours_stand_out_from_the_paper(colours: tuple[str, ...], paper: str) -> None:
    assert min(contrast(colour, paper) for colour in colours) >= 3


def test_the_page_has_the_colours_of_the_plots() -> None:
    page = render(Material("t", "s", "c"))
    for name, colours in (("light", palette.LIGHT), ("dark", palette.DARK)):
        for at, colour in enumerate(colours):
            assert f"--series-{at}: {colour};" in page, name
    assert page.count("--series-0:") == 2


def test_no_series_is_told_apart_by_colour_alone() -> None:
    assert len(set(MARKERS)) == len(MARKERS) == len(palette.LIGHT) == len(palette.DARK)
    looks = {(MARKERS[(at + at // 6) % 6], DASHES[at // 6 % len(DASHES)]) for at in range(24)}
    assert len(looks) == 24  # lines that differ without their colours


# What is drawn

HOSTILE = "$x_{2$ <b>&amp;\u202e"
LONG = "web/a_domain_whose_name_seems_as_if_it_would_never_come_to_an_end"


def names(count: int) -> list[str]:
    return [HOSTILE, LONG, *(f"web/domain_{at}" for at in range(count - 2))]


def entropy_report(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    js = rng.random((count, count)) * 0.4
    domains = {}
    for name in names(count):
        level = 4 + rng.normal(0, 0.5)
        domains[name] = {
            "entropy": {
                measure: {"nats": level, "low": level - 0.1, "high": level + 0.2}
                for measure in ("conditional", "shannon", "joint", "von_neumann")
            },
            "convergence": [
                {"sample_tokens": 1e4 * 2**at, "conditional": level + 0.1 * at,
                 "conditional_plugin": level - 1 + 0.2 * at}
                for at in range(5)
            ],
        }  # fmt: skip
    return {"domains": domains, "between": {"order": names(count), "js": (js + js.T).tolist()}}


def weights(count: int, seed: int = 0) -> dict[str, float]:
    drawn = np.random.default_rng(seed).dirichlet(np.full(count, 0.8))
    return dict(zip(names(count), drawn.tolist(), strict=True))


def mixture(count: int) -> dict[str, Any]:
    shares = weights(count)
    ends = {"low": 0.5, "high": 1.5}
    return {"weights": shares,
            **{end: {n: f * s for n, s in shares.items()} for end, f in ends.items()}}  # fmt: skip


def comparison(count: int, methods: int) -> dict[str, Any]:
    return {"mixtures": {f"method_{at}": {"weights": weights(count, at)} for at in range(methods)}}


def validation() -> dict[str, Any]:
    candidates = {
        name: {"objective": {"mean": 3 + at / 10, "low": 2.9 + at / 10, "high": 3.1 + at / 10},
               "loss": {"a": {"predicted": 3.0}}}
        for at, name in enumerate(("recommended", "natural", LONG))
    }  # fmt: skip
    against = {"natural": {"mean": -0.1, "low": -0.2, "high": 0.01}}
    return {"sizes": [{"preset": "nano", "candidates": candidates, "against": against}]}


def pareto_front() -> dict[str, Any]:
    points = [
        {"losses": {"code": 2 + t * t, "prose": 2 + (1 - t) ** 2}} for t in np.linspace(0, 1, 9)
    ]
    return {"points": points, "natural": {"code": 2.7, "prose": 2.8}}


def training_curves(runs: int) -> pl.DataFrame:
    steps = np.arange(1, 400)
    return pl.concat(
        pl.DataFrame({"run": f"r{run}", "seed": 0, "tokens": steps * 512.0,
                      "loss": 3 + (4 + run / 10) * steps**-0.3})
        for run in range(runs)
    )  # fmt: skip


def figures(count: int) -> Iterator[tuple[str, Figure]]:
    plots, report = curate.plots, entropy_report(count)
    stats = {"domains": {n: {"tokens_train": 1e6 * s} for n, s in weights(count, 9).items()}}
    yield "entropies", plots.entropies(report)
    yield "saturation", plots.saturation(report)
    yield "divergence", plots.divergence(report)
    yield "shares", plots.shares(mixture(count), stats)
    yield "few methods", plots.methods(comparison(count, 4))
    yield "many methods", plots.methods(comparison(count, 16))
    yield "rivals", plots.rivals(validation())
    yield "front", plots.front(pareto_front())
    yield "few curves", plots.curves(training_curves(3))
    yield "many curves", plots.curves(training_curves(12))


@pytest.mark.parametrize("count", [3, pytest.param(16, marks=pytest.mark.slow)])
def test_no_text_is_cut_or_covered(count: int) -> None:
    for name, figure in figures(count):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3]
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.min() == 255, name  # nothing is cut
        for plane in figure.axes:
            labels = [text for text in plane.get_yticklabels() if text.get_text()]
            boxes = [label.get_window_extent() for label in labels]
            for lower, upper in combinations(boxes, 2):
                assert min(lower.y1, upper.y1) - max(lower.y0, upper.y0) < 2, name


def test_names_are_shown_as_they_are() -> None:
    plane = curate.plots.entropies(entropy_report(4), "conditional").axes[0]
    shown = {text.get_text() for text in plane.get_yticklabels()}
    assert "$x_{2$ <b>&amp;\\u202e" in shown  # no formula, no direction of writing
    assert "web/a_domain_whose_n…me_to_an_end" in shown


def test_every_method_and_domain_is_drawn() -> None:
    figure = curate.plots.methods(comparison(12, 16))
    plane = figure.axes[0]
    assert [t.get_text() for t in plane.get_xticklabels()] == [f"method_{at}" for at in range(16)]
    assert len(plane.texts) == 12 * 16


def test_lines_have_their_names() -> None:
    texts = [text.get_text() for text in curate.plots.saturation(entropy_report(9)).axes[0].texts]
    assert sorted(texts) == sorted(
        [f"web/domain_{at}" for at in range(7)]
        + ["$x_{2$ <b>&amp;\\u202e", "web/a_domain_whose_n…me_to_an_end"]
    )


@pytest.mark.parametrize("suffix", [pytest.param("png", marks=pytest.mark.slow), "svg"])
def test_the_same_plot_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    written = []
    for at, size in product(range(2), (9, 30)):
        path = tmp_path / f"{at}.{suffix}"
        with mpl.rc_context({"font.size": size, "axes.grid": False, "svg.hashsalt": str(at)}):
            assert save(curate.plots.entropies(entropy_report(5)), path) == []
        written.append(path.read_bytes())
    assert len(set(written)) == 1
    assert b"curate report" in written[0][:4096] and b"dc:date" not in written[0]


def test_characters_that_the_font_lacks_are_reported(tmp_path: Path) -> None:
    mixed = {"weights": {"中文": 0.5, "b": 0.5}}
    notices = save(curate.plots.shares(mixed), tmp_path / "shares.png")
    assert notices and "shares.png: Glyph 20013" in notices[0]


def test_notebooks_show_figures_without_pyplot() -> None:
    figure: Any = curate.plots.front(pareto_front())
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_sources_are_mappings_results_and_paths(tmp_path: Path) -> None:
    class Result:
        def to_json(self) -> dict[str, Any]:
            return {"entropy_report": entropy_report(3)}

    path = tmp_path / "entropy_report.json"
    path.write_text(json.dumps(entropy_report(3)), "utf-8")
    sizes = {
        len(curate.plots.divergence(source).axes[0].texts)
        for source in (entropy_report(3), Result(), path, str(path))
    }
    assert sizes == {6}


def test_small_divergences_are_told_apart() -> None:
    report = {
        "between": {
            "order": ["a", "b", "c"],
            "js": [[0, 0.001, 0.2], [0.001, 0, 0.004], [0.2, 0.004, 0]],
        }
    }
    cells = {text.get_text() for text in curate.plots.divergence(report).axes[0].texts}
    assert {"0.001", "0.006", "0.29"} <= cells  # nats in the file, bits in the picture


def test_shares_without_intervals_promise_none() -> None:
    mixture = {"weights": {"a": 0.5, "b": 0.5}, "low": None, "high": None}
    legend = curate.plots.shares(mixture).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["asked"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.entropies({}), "plots: no entropies in these fields; give those of entropy_"),
        (lambda p: p.entropies(entropy_report(3), "renyi"), "plots: no measure 'renyi'; there are"),
        (lambda p: p.saturation({"domains": {"a": 3}}), "plots: no estimates on growing samples"),
        (lambda p: p.divergence({"between": {"order": ["a"]}}), "plots: no divergences between"),
        (lambda p: p.shares({"weights": {"a": 1.0}}), "plots: no shares in these fields"),
        (lambda p: p.methods({"mixtures": []}), "plots: no mixtures by method"),
        (lambda p: p.front({"points": [{"losses": {"a": 1}}]}), "plots: no points of a front"),
        (lambda p: p.predictions({}), "law.json: not as curate writes it"),
        (lambda p: p.support({"domains": 3}), "law.json: not as curate writes it"),
        (lambda p: p.rivals({"sizes": [{"candidates": {"a": {}}}]}), "plots: no trained mixtures"),
        (lambda p: p.curves(pl.DataFrame({"run": ["a"]})), "plots: the curves have no column"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(curate.plots)


def test_without_matplotlib_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import curate\n"
        "from curate.errors import MissingEvidence\n"
        "try: curate.plots.shares({'weights': {'a': 0.5, 'b': 0.5}})\n"
        "except MissingEvidence as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pip install 'curate-mix[plots]'" in printed


def test_the_command_writes_each_figure_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stamp = {"curate_version": "0"}
    for name, fields in {
        "entropy_report": entropy_report(4),
        "mixture": mixture(4),
        "mixtures": comparison(4, 3),
        "validation": validation(),
        "front": pareto_front(),
    }.items():
        (out / f"{name}.json").write_text(json.dumps({**stamp, **fields}), "utf-8")
    plots = tmp_path / "plots"
    done = CliRunner().invoke(cli, ["report", str(out), "--plots", str(plots), "--json"])
    assert done.exit_code == 0, done.output
    expected = {"entropies", "saturation", "divergence", "shares", "methods", "rivals", "front"}
    files = {path.name for path in plots.iterdir()}
    assert files == {f"{name}.{suffix}" for name in expected for suffix in ("png", "svg")}
    assert {Path(path).name for path in json.loads(done.output)["plots"]} == files
    page = (out / "report.html").read_text("utf-8")
    assert (
        "Pareto front between groups of targets" in page and "loss of prose by loss of code" in page
    )
    again = CliRunner().invoke(cli, ["report", str(out), "--plots", str(plots)])
    assert again.exit_code == 0 and "entropies.png" in again.output

    shutil.copy(out / "mixture.json", plots / "front.svg")
    refused = CliRunner().invoke(cli, ["report", str(out), "--plots", str(plots)])
    assert "front.svg: curate did not write this file" in str(refused.exception)
    assert json.loads((plots / "front.svg").read_text("utf-8"))["weights"]


def test_very_many_rows_still_make_a_figure_of_a_page() -> None:
    def chart(rows: int) -> Chart:
        marks = [(f"domain {at}", [Mark(0, float(rows - at))]) for at in range(rows)]
        return Chart(Dots(Axes("bits"), marks), "")

    width, height = draw([chart(72)] * 4).get_size_inches()
    assert height < 12 and width < 24  # 37 inches high before
    plane = draw([chart(200)]).axes[0]
    assert len(plane.get_yticklabels()) == 100
    assert plane.get_xlabel() == "bits; the 100 largest of 200 rows"
