"""The `report` command: collect what a recipe, a dataset or runs have, and write `report.html`.

Nothing is tokenised, counted or trained. What is missing is named on the page with the command that
makes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import structs

from curate.curation.levels import DomainSettings, domain_settings
from curate.dataset.manifest import QUARANTINE, RECIPE, find_manifest
from curate.dataset.samples import sample_documents
from curate.dataset.staged import find_stages
from curate.errors import CurateError, EngineError, InputError, MissingEvidence, RecipeError
from curate.laws.law import RunTable
from curate.laws.run_tables.columns import RECIPE_SUFFIXES
from curate.mixture import METHODS, DomainSupply, MixtureOptions, MixtureRequest
from curate.mixture.methods.needs_evidence import LawMethod
from curate.mixture.request import Evidence
from curate.pipeline.check import by_hand
from curate.pipeline.from_run_table import RunTableInputs, request_without_text
from curate.pipeline.read_evidence import read_evidence, read_evidence_files, search_options
from curate.recipe import (
    EvidenceRecipe,
    LoadedRecipe,
    Recipe,
    load_recipe,
    source_of,
    stage_recipes,
)
from curate.recipe.effective import effective_text
from curate.report.artifact_charts import training_curves
from curate.report.page.explorer import ExplorerInputs, explorer_data
from curate.report.page.fields import dig, mapping, number
from curate.report.page.law_file import check_law
from curate.report.page.material import Material, TrainingCurve
from curate.report.page.page import GENERATOR, render
from curate.report.plots import all_plots
from curate.runtime.files import atomic_path, hash_file, read_json
from curate.runtime.limits import OverLimit
from curate.runtime.machine import fault_or
from curate.runtime.progress import Observer
from curate.runtime.workers import ahead
from curate.tokens.selftest import LIMITS

ARTIFACTS = (
    "stats", "mixture", "law", "mixtures", "plan", "certificate", "manifest", "entropy_report",
    "fit", "validation", "front",
)  # fmt: skip
"""JSON artifacts that the page shows, by name without suffix."""

REPORT = "report.html"
REPLACED = ("mixture", "budget_tokens", "stages")
"""Keys of the recipe that the explorer's mixture stands for."""
SAMPLES = 2
"""Documents shown of each domain."""
BAD_RECORDS = 100
"""Bad records shown; the file has all."""
CURVES = 256
"""Most training curves of the page."""


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """The subject of a report; each field is None or empty where it is absent."""

    source: str
    """Words for the page: the recipe, directory or runs that were given."""
    command: str
    """How the recipe is named in the commands that the page suggests."""
    directory: Path | None = None
    """Directory of the artifacts."""
    loaded: LoadedRecipe | None = None
    runs: RunTableInputs = field(default_factory=RunTableInputs)
    """Run tables without a recipe."""


def recipe_inputs(loaded: LoadedRecipe, name: str) -> ReportInputs:
    """Collect the places of a recipe's artifacts.

    Raises:
        InputError: They are in a bucket.
    """
    url = loaded.output_url
    if url is not None:
        here = loaded.output_dir
        planned = f", or, of what is planned, curate report {here}" if _has_artifacts(here) else ""
        raise InputError(f"{name}: its dataset is in a bucket; type curate report {url}{planned}")
    return ReportInputs(f"recipe {name}", name, loaded.output_dir, loaded)


def directory_inputs(directory: Path) -> ReportInputs:
    """Collect what a directory of artifacts holds, its recipe among it.

    Raises:
        InputError: Nothing in it is an artifact of curate.
    """
    if not _has_artifacts(directory) and not (directory / "runs.csv").is_file():
        raise InputError(
            f"{directory}: no dataset or artifact of curate is there; name a recipe, the directory "
            "of a dataset, or run tables"
        )
    kept = directory / RECIPE
    loaded = load_recipe(kept) if kept.is_file() else None
    if loaded is not None and loaded.recipe.stages and find_manifest(directory) is not None:
        stage = stage_recipes(loaded)[-1]  # a stage's folder has the recipe up to itself
        schedule = stage.recipe.schedule
        ends = () if schedule is None else (schedule.start, schedule.end)
        if any(isinstance(end, str) for end in ends):  # shares of other stages: they are built
            plain = structs.replace(stage.recipe, schedule=None)
            stage = structs.replace(stage, recipe=plain)
        loaded = stage
    command = "RECIPE" if loaded is None else str(kept)
    return ReportInputs(f"directory {directory}", command, directory, loaded)


def _has_artifacts(directory: Path) -> bool:
    """Return whether curate wrote any of its JSON files to a directory."""
    return any(_is_artifact(directory / f"{name}.json") for name in ARTIFACTS)


def _is_artifact(path: Path) -> bool:
    """Return whether a JSON file states the version of curate that wrote it."""
    if not path.is_file():
        return False
    fields = _read_artifact(path)
    return isinstance(fields, dict) and "curate_version" in fields


def _read_artifact(path: Path) -> Any:
    """Read JSON; an error says how to get past it."""
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(f"{error}; make it again, or remove it") from error


def write_report(
    inputs: ReportInputs, path: Path, plots: Path | None, observer: Observer
) -> dict[str, Any]:
    """Write the page, and its figures as PNG and SVG.

    Args:
        inputs: What it is about.
        path: File to write.
        plots: Directory of the figures; None for none.
        observer: Receives notices.

    Returns:
        Path, bytes, the parts that had no evidence, and the paths of the figures.

    Raises:
        InputError: An artifact is no JSON object, or a file that curate did not write is at `path`
            or in the place of a figure.
        MissingEvidence: There are figures to write, and matplotlib is not installed.
        FitError: A run table is wrong.
    """
    _refuse_foreign(path)
    material = collect(inputs, observer)
    page = render(material).encode("utf-8", "backslashreplace")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(page)
    observer.wrote(path)
    pictures = [] if plots is None else _write_plots(material, plots, observer)
    return {
        "path": str(path),
        "bytes": len(page),
        "notices": list(material.notices),
        "plots": [str(picture) for picture in pictures],
    }


def _write_plots(material: Material, directory: Path, observer: Observer) -> list[Path]:
    """Write each figure whose evidence is at hand; return the paths."""
    pictures = []
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in all_plots(material):
        from curate.report.canvas import save  # imports matplotlib

        for suffix in ("png", "svg"):
            path = directory / f"{name}.{suffix}"
            _refuse_foreign(path)
            for notice in save(figure, path):
                observer.notice(notice)
            observer.wrote(path)
            pictures.append(path)
    if not pictures:
        observer.notice("no plot was written: there is no evidence for any")
    return pictures


def _refuse_foreign(path: Path) -> None:
    """Raise InputError if there is a file that no report of curate's is."""
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as stream:
            if GENERATOR.encode() in stream.read(4096):
                return
    raise InputError(f"{path}: curate did not write this file; move it away, or give --out DIR")


def collect(inputs: ReportInputs, observer: Observer) -> Material:
    """Read all evidence at hand, and fit the law to the runs.

    Raises:
        CurateError: See `write_report`.
    """
    directory, loaded = inputs.directory, inputs.loaded
    artifacts = _fit_of(inputs.runs.runs) if directory is None else _artifacts(directory)
    stage = _first_stage(directory)
    # The hash of a stage has shares of other stages where its schedule names them.
    is_stage = loaded is not None and loaded.stage_of is not None
    notices = [] if loaded is None or is_stage else _stale(artifacts, loaded.hash)
    if stage is not None and stage != directory:
        counted = _artifacts(stage)
        artifacts |= {name: counted[name] for name in ("stats",) if name in counted}
    request, missing, supply_known = _request(inputs, artifacts, observer)
    recommended: Mapping[str, Any] = mapping(artifacts, "mixture", "weights")
    law = check = explorer = None
    if request is not None:
        names = [domain.name for domain in request.domains]
        law = _law_of(artifacts)
        runs = None if request.evidence is None else request.evidence.runs
        if law is None and runs is not None:
            try:
                law, best = _fit(request, runs)
                recommended = recommended or best
            except CurateError as error:
                missing = f"No law: {error}."
        check = None if law is None else check_law(law, names)
        data = ExplorerInputs(
            domains=request.domains,
            budget_tokens=request.budget_tokens if supply_known else None,
            recommended=_numbers(recommended),
            yours={d.name: d.weight for d in request.domains if d.weight is not None},
            recipe="" if loaded is None else effective_text(loaded, REPLACED),
            law_missing=missing,
        )
        explorer = explorer_data(data, law)
    samples, samples_missing = _samples(stage)
    bad_records, bad_records_total = _bad_records(stage)
    if bad_records_total == 0:
        rows = mapping(artifacts, "stats", "domains").values()
        bad_records_total = int(sum(number(dig(row, "bad_records")) or 0 for row in rows))
    for notice in notices:
        observer.notice(notice)
    return Material(
        title=_title(inputs, artifacts),
        source=inputs.source,
        command=inputs.command,
        artifacts=artifacts,
        recipe=None if loaded is None else effective_text(loaded),
        licences={
            d.name: d.license for d in (loaded.recipe.domains if loaded else ()) if d.license
        },
        samples=samples,
        samples_missing=samples_missing,
        bad_records=bad_records,
        bad_records_total=bad_records_total,
        run_tables=_run_tables(inputs),
        law=check,
        law_missing=missing or f"No runs are at hand. Make some: curate proxy {inputs.command}",
        curves=_curves(inputs),
        explorer=explorer,
        notices=notices,
    )


def _law_of(artifacts: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the law of the mixture at hand, if it was kept with it."""
    law, mixture = artifacts.get("law"), artifacts.get("mixture")
    origin = ("recipe_hash", "inputs", "law")
    if law is None or mixture is None or any(law.get(key) != mixture.get(key) for key in origin):
        return None
    return law


def _first_stage(directory: Path | None) -> Path | None:
    """Return the directory of the first stage, which counts the domains of all; or itself."""
    stages = None if directory is None else find_stages(directory)
    if directory is None or stages is None:
        return directory
    return directory / stages.stages[0].name


def _title(inputs: ReportInputs, artifacts: Mapping[str, Any]) -> str:
    if inputs.loaded is not None:
        return inputs.loaded.recipe.name
    name = dig(artifacts, "manifest", "name")
    if isinstance(name, str):
        return name
    return "runs" if inputs.directory is None else inputs.directory.resolve().name


def _artifacts(directory: Path) -> dict[str, Mapping[str, Any]]:
    artifacts: dict[str, Mapping[str, Any]] = {}
    for name in ARTIFACTS:
        path = directory / f"{name}.json"
        if path.is_file():
            fields = _read_artifact(path)
            if not isinstance(fields, dict):
                raise InputError(f"{path}: not an artifact of curate; remove it, or make it again")
            artifacts[name] = fields
    return artifacts


def _fit_of(runs: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """Read the `fit.json` of these very run tables, beside them or in the current directory."""
    digests = {hash_file(path) for path in runs if path.is_file()}
    for place in dict.fromkeys([*(path.parent for path in runs), Path()]):
        if (place / "fit.json").is_file():
            fit = read_json(place / "fit.json")
            if digests and digests == set(mapping(fit, "inputs").values()):
                return {"fit": fit}
    return {}


def _stale(artifacts: Mapping[str, Mapping[str, Any]], recipe_hash: str) -> list[str]:
    """Name the artifacts of another recipe."""
    return [
        f"{name}.json was made from another version of the recipe; run its command again"
        for name, fields in artifacts.items()
        if fields.get("recipe_hash") not in (None, recipe_hash)
    ]


def _request(
    inputs: ReportInputs, artifacts: Mapping[str, Any], observer: Observer
) -> tuple[MixtureRequest | None, str, bool]:
    """Make the request of a mixing method from artifacts alone.

    Returns:
        The request, None where the domains are unknown; why there is no law, empty where there may
        be one; and whether supply and budget are known.
    """
    command = f"curate proxy {inputs.command}"
    if inputs.runs.runs:
        prepared = request_without_text(inputs.runs, observer)
        return prepared.request, "", prepared.supply_known
    supply = {
        name: number(dig(row, "tokens_train")) or number(dig(row, "tokens")) or 0.0
        for name, row in mapping(artifacts, "stats", "domains").items()
    } or {
        name: number(dig(row, "supply_tokens")) or 0.0
        for name, row in mapping(artifacts, "plan", "domains").items()
    }  # fmt: skip
    loaded = inputs.loaded
    if loaded is None:
        return _request_without_recipe(artifacts, supply), (
            "No predicted losses: the recipe is not at hand; name it: curate report RECIPE"
        ), bool(supply)  # fmt: skip
    recipe = loaded.recipe
    missing = f"No predicted losses: there are no training runs. Make some: {command}"
    evidence = None
    if _law_of(artifacts) is None:
        try:
            evidence = _evidence(loaded, supply or None)
        except EngineError:
            raise
        except CurateError as error:
            missing = f"No predicted losses: {error}"
    source_names = [domain.name for domain in recipe.domains]
    names = list(supply) if recipe.is_split and supply else source_names
    is_known = bool(supply) and all(supply.get(name) for name in names)
    settings = DomainSettings(tuple(recipe.domains), recipe.mixture)
    if recipe.is_split and is_known:
        sources = [source_names.index(source_of(name)) for name in names]
        tokens = [int(supply[name]) for name in names]
        settings = domain_settings(loaded, names, sources, tokens)
    domains = tuple(
        DomainSupply(
            name=name,
            supply_tokens=int(supply[name]) if is_known else 10**9,
            max_epochs=max_epochs,
            weight=weight,
        )
        for max_epochs, (name, weight) in zip(
            settings.epochs(recipe.max_epochs), _by_hand(loaded, settings), strict=True
        )
    )
    budget = recipe.budget_tokens if is_known else 10**9
    method = recipe.mixture.method
    request = MixtureRequest(domains, budget, method, _options(recipe, settings), evidence)
    has_runs = evidence is not None and evidence.runs is not None
    if evidence is not None and evidence.experts is not None and not has_runs:
        missing = (
            f"No predicted losses: method {method} mixes the experts' probabilities of every "
            "held-out token, too many for a page; curate mix says the loss of its mixture. Runs "
            f"of small models give the explorer a law: {command}"
        )
    return request, "" if has_runs else missing, is_known


def _options(recipe: Recipe, settings: DomainSettings) -> MixtureOptions:
    """Return what a recipe says of the mixture, with the bounds of its divided domains."""
    return MixtureOptions(
        on_shortfall=recipe.on_shortfall,
        search=search_options(settings.mixture, recipe.seed),
        floors=settings.mixture.floors,
        caps=settings.mixture.caps,
    )


def _by_hand(loaded: LoadedRecipe, settings: DomainSettings) -> list[tuple[str, float | None]]:
    """Return the recipe's own weights; none where the file that it names is no longer there."""
    try:
        return by_hand(loaded, settings)
    except RecipeError:
        return [(domain.name, domain.weight) for domain in settings.domains]


def _request_without_recipe(
    artifacts: Mapping[str, Any], supply: Mapping[str, float]
) -> MixtureRequest | None:
    """Make a request for the explorer's passes, from counts alone."""
    if not supply or not sum(supply.values()):
        return None
    domains = tuple(DomainSupply(name, int(tokens), math.inf) for name, tokens in supply.items())
    budget = number(dig(artifacts, "plan", "budget_tokens")) or sum(supply.values())
    return MixtureRequest(domains, int(budget), "natural")


def _evidence(loaded: LoadedRecipe, supply: Mapping[str, float] | None) -> Evidence | None:
    """Read the runs that the recipe names, or else those that `curate proxy` wrote for it."""
    try:
        evidence = read_evidence(loaded, supply)
    except MissingEvidence:
        evidence = None
    made = loaded.output_dir / "runs.csv"
    if (evidence is None or evidence.runs is None) and made.is_file():
        named = loaded.recipe.mixture.evidence or EvidenceRecipe()
        return read_evidence_files([made], [], named, supply)
    return evidence


def _run_tables(inputs: ReportInputs) -> list[str]:
    """Return the paths of the run tables of `_evidence`, as they are named on the command line."""
    loaded = inputs.loaded
    if inputs.runs.runs or loaded is None:
        return [str(path) for path in inputs.runs.runs]
    evidence = loaded.recipe.mixture.evidence
    named = () if evidence is None or evidence.runs is None else evidence.runs
    paths = [loaded.base / name for name in ([named] if isinstance(named, str) else named)]
    made = loaded.output_dir / "runs.csv"
    return [str(path) for path in paths or [made] if path.is_file()]


def _numbers(weights: Mapping[str, Any]) -> dict[str, float]:
    return {name: share for name, value in weights.items() if (share := number(value)) is not None}


def _fit(request: MixtureRequest, runs: RunTable) -> tuple[dict[str, Any], dict[str, float]]:
    """Fit the law of the request's method, or `joint`, and try it on mixtures left out.

    Returns:
        The fields of `law.json`, and the best mixture.
    """
    # These take half a second to import, and are not needed where `law.json` is at hand.
    from curate.mixture.methods.law_case import make_case, refits_of
    from curate.mixture.methods.law_methods import best_mixture
    from curate.mixture.methods.law_record import law_record

    prefer = METHODS.find(request.method, "mixture.method").prefer
    law = prefer if isinstance(prefer, LawMethod) else LawMethod("joint")
    case = make_case((law.law, law.kl_bpb, law.simulated), request, runs)
    best = case.constraints.in_recipe_order(best_mixture(case))
    names = [domain.name for domain in request.domains]
    return law_record(case, refits_of(case)), dict(zip(names, best, strict=True))


def _curves(inputs: ReportInputs) -> list[TrainingCurve]:
    """Read the training curves beside the runs, thinned to means of some steps each."""
    places = [inputs.directory, *(path.parent for path in inputs.runs.runs)]
    files = [
        file for place in places if place for file in sorted((place / "curves").glob("*.parquet"))
    ]
    if not files:
        return []
    import polars as pl
    from polars.exceptions import PolarsError

    curves: list[TrainingCurve] = []
    for file in files:
        try:
            curves += training_curves(pl.read_parquet(file))
        except (OSError, PolarsError) as error:
            damage = InputError(f"{file}: no training curves ({error}); run curate proxy again")
            raise fault_or(damage, error, str(file)) from error
        if len(curves) >= CURVES:
            return curves[:CURVES]
    return curves


def _samples(directory: Path | None) -> tuple[dict[str, list[str]], str]:
    """Decode some documents of the dataset, or say why there are none."""
    manifest = None if directory is None else find_manifest(directory)
    if directory is None or manifest is None:
        return {}, "No dataset was built, so no document is at hand."
    try:
        # In a process with limits, since the dataset's tokenizer may be a stranger's.
        with ahead(partial(sample_documents, directory, manifest, SAMPLES), LIMITS) as receive:
            return receive(), ""
    except EngineError:
        raise
    except (CurateError, OverLimit) as error:
        return {}, f"No document can be shown: {error}."


def _bad_records(directory: Path | None) -> tuple[list[dict[str, Any]], int]:
    """Read the first bad records, and count all."""
    path = None if directory is None else directory / QUARANTINE
    if path is None or not path.is_file():
        return [], 0
    rows: list[dict[str, Any]] = []
    total = 0
    with path.open("rb") as stream:
        for line in stream:
            total += 1
            if len(rows) < BAD_RECORDS:
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise InputError(f"{path}: line {total} is not JSON ({error})") from error
                rows.append(row if isinstance(row, dict) else {"excerpt": row})
    return rows, total


def report_inputs(
    source: Sequence[Path], runs: RunTableInputs, overrides: Sequence[str], out: Path | None
) -> tuple[ReportInputs, Path]:
    """Tell a recipe, a directory and run tables apart, and find where the page goes.

    Args:
        source: One recipe or directory, or any number of run tables.
        runs: Supply and budget for run tables.
        overrides: Changes to the recipe.
        out: Replaces the recipe's `output.dir`; for others, the directory of the page.

    Raises:
        RecipeError: The recipe is wrong, or an argument does not go with the source.
        InputError: The directory holds nothing of curate.
    """
    first = source[0]
    for path in source:
        if not path.exists():
            raise InputError(
                f"{path}: does not exist; name a recipe, the directory of a dataset, or run tables"
            )
        if len(source) > 1 and (path.is_dir() or path.suffix.lower() in RECIPE_SUFFIXES):
            raise InputError(
                f"{path}: a recipe or a directory goes alone; only run tables may be several"
            )
    is_recipe = len(source) == 1 and first.suffix.lower() in RECIPE_SUFFIXES
    if (is_recipe or first.is_dir()) and (runs.supply or runs.budget_tokens is not None):
        raise RecipeError(
            "report: --supply and --budget are for run tables; a recipe has its own text and budget"
        )
    if is_recipe:
        changed = [*overrides] if out is None else [
            *overrides, f"output.dir={json.dumps(str(out.resolve()))}"
        ]  # fmt: skip
        loaded = load_recipe(first, changed)
        return recipe_inputs(loaded, str(first)), loaded.output_dir / REPORT
    if overrides and first.is_dir():
        raise RecipeError("report: --set changes a recipe; name the recipe, or leave it out")
    if len(source) == 1 and first.is_dir():
        return directory_inputs(first), (out or first) / REPORT
    named = replace(runs, runs=tuple(source), overrides=tuple(overrides))
    words = "runs " + ", ".join(str(path) for path in source)
    return ReportInputs(words, "RECIPE", None, None, named), (out or Path()) / REPORT
