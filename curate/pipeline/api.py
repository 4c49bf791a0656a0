"""The Python functions of curate, one for each command; the command line shows what they return.

Every function takes a recipe as a path, a mapping, or loaded. `workers` is the number of processes
and defaults to the cores. `progress` is silent by default; "terminal" shows what the command line
shows, and an `Observer` of your own receives everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace as with_fields

from curate.errors import RecipeError
from curate.pipeline.results import (
    CertificateResult,
    DesignResult,
    FitResult,
    MethodsResult,
    MixtureResult,
    PlanResult,
    ProxyResult,
    StatsResult,
    ValidationResult,
)
from curate.recipe import LoadedRecipe, load_recipe, override_texts
from curate.runtime.progress import Observer
from curate.runtime.workers import default_workers

PathLike = str | os.PathLike[str]
RecipeLike = LoadedRecipe | PathLike | Mapping[str, Any]
"""A loaded recipe, the path of one, or its keys and values."""
Overrides = Mapping[str, Any] | Iterable[str]
"""`{"mixture.kl": 0.1}` or `["mixture.kl=0.1"]`."""
Progress = Observer | Literal["terminal"] | None
"""Receiver of progress; None for silence."""


def tokenize(
    recipe: RecipeLike, *, workers: int | None = None, progress: Progress = None
) -> StatsResult:
    """Tokenise what the token store lacks, count it, and write `stats.json`.

    Args:
        recipe: The recipe, its path, or a mapping.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Documents, bytes, tokens and plug-in entropies of every domain.

    Raises:
        CurateError: Any user-fixable error in the recipe, the files or the tokenizer.

    Example:
        `curate.tokenize("recipe.yaml").to_polars()`
    """
    return stats(recipe, workers=workers, progress=progress)


def stats(
    recipe: RecipeLike,
    *,
    intervals: bool = False,
    compare: bool = False,
    workers: int | None = None,
    progress: Progress = None,
) -> StatsResult:
    """Measure every domain, tokenising it first where needed, and write `stats.json`.

    Args:
        recipe: The recipe, its path, or a mapping.
        intervals: Also estimate bias-corrected entropies with 95 % intervals, and write
            `entropy_report.json`. Takes seconds for each domain.
        compare: Also derive the mixtures of the methods that need no runs; implies `intervals`.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Fields of `stats.json`, and below `entropy_report` those of the report.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.stats("recipe.yaml", intervals=True).to_polars()`
    """
    from curate.pipeline.artifacts import write_stats
    from curate.pipeline.measure import recall, remember
    from curate.pipeline.tokenize import tokenize_domains
    from curate.runtime.files import read_json, write_json

    loaded, workers, observer = _prepare(recipe, workers, progress)
    _check(loaded)
    tokenized = tokenize_domains(loaded, workers, observer)
    path = loaded.output_dir / "stats.json"
    write_stats(loaded, tokenized, recall(loaded, tokenized), observer)
    if not intervals and not compare:
        return StatsResult(read_json(path))
    # Imported here: this loads compiled code that most commands do without.
    from curate.mixture.compare_methods import entropy_temperature
    from curate.pipeline.compare_entropies import entropy_entrants, measure_domains
    from curate.pipeline.compare_mixtures import compare_mixtures
    from curate.pipeline.mix import mixture_request

    measured = measure_domains(tokenized, loaded.recipe.seed, workers, observer)
    remember(loaded, tokenized, measured.plan, measured.domains)
    write_stats(loaded, tokenized, recall(loaded, tokenized), observer)
    fields = read_json(path)
    report = measured.to_json(fields)
    if compare:
        request = mixture_request(loaded, tokenized)
        report["comparison"] = {
            **compare_mixtures(entropy_entrants(measured, request), workers, observer),
            "temperature": entropy_temperature(request),
        }
    write_json(loaded.output_dir / "entropy_report.json", report)
    return StatsResult({**fields, "entropy_report": report})


def mix(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    method: str | None = None,
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Mapping[str, float] | PathLike | Sequence[str] | None = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> MixtureResult:
    """Derive shares of tokens, from a recipe or from a run table alone.

    With a recipe, `stats.json` and `mixture.json` are written, and every argument from `runs` to
    `max_epochs` is left out: the recipe says all of that.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        method: Name of a mixing method; None for the recipe's, or `joint` for runs and `mde` for
            experts.
        runs: Run table, or a table of mixtures and one of losses.
        experts: Log-probabilities of one expert for each domain, from `curate.experts`.
        supply: Tokens by domain, or a CSV file with columns domain and tokens; needs
            `budget_tokens`.
        budget_tokens: Tokens to train on; needs `supply`.
        max_epochs: Most passes over a domain; positive.
        overrides: Changes to the recipe; without one, to `mixture.…` and `seed`.
        directory: Without a recipe, where to write `mixture.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Shares by domain, with intervals where the method has them.

    Raises:
        CurateError: Any user-fixable error, including a mixture that its caps do not allow.

    Example:
        `curate.mix(runs="runs.csv", method="bimix").weights`
    """
    settings = override_texts(overrides)
    if recipe is None:
        from curate.pipeline.from_run_table import mix_without_text

        if method is not None:
            settings += (f"mixture.method={method}",)
        inputs = _run_table(runs, experts, supply, budget_tokens, max_epochs, settings)
        return mix_without_text(inputs, _path(directory), _observer(progress))
    _refuse_both(runs=runs, experts=experts, supply=supply, budget=budget_tokens)
    from curate.pipeline.build import keeps_other_dataset
    from curate.pipeline.mix import mix_domains, write_mixture
    from curate.pipeline.tokenize import tokenize_domains

    loaded, workers, observer = _prepare(recipe, workers, progress, settings)
    if method is not None:
        mixture = with_fields(loaded.recipe.mixture, method=method)
        loaded = with_fields(loaded, recipe=with_fields(loaded.recipe, mixture=mixture))
    _check(loaded)
    write = not keeps_other_dataset(loaded, observer)
    tokenized = tokenize_domains(loaded, workers, observer)
    mixed = mix_domains(loaded, tokenized, workers, observer, write=write)
    if write:
        write_mixture(loaded, mixed)
    supplies: dict[str, int | None] = {d.name: d.supply_tokens for d in mixed.request.domains}
    return MixtureResult(mixed.mixture.to_json(), supplies)


def compare(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Mapping[str, float] | PathLike | Sequence[str] | None = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> MethodsResult:
    """Derive the mixture of every method that the evidence allows, side by side.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        runs: See `mix`, as for all up to `overrides`.
        experts: See `mix`.
        supply: See `mix`.
        budget_tokens: See `mix`.
        max_epochs: See `mix`.
        overrides: See `mix`.
        directory: Without a recipe, where to write `mixtures.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Mixtures by method, and why the others are left out; also written to `mixtures.json`.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.compare("recipe.yaml").to_polars()`
    """
    settings = override_texts(overrides)
    if recipe is None:
        from curate.pipeline.from_run_table import compare_without_text

        inputs = _run_table(runs, experts, supply, budget_tokens, max_epochs, settings)
        workers = workers or default_workers()
        return compare_without_text(inputs, _path(directory), workers, _observer(progress))
    _refuse_both(runs=runs, experts=experts, supply=supply, budget=budget_tokens)
    from curate.mixture.compare_methods import every_method
    from curate.pipeline.compare_mixtures import compare_mixtures
    from curate.pipeline.mix import comparison_request
    from curate.pipeline.tokenize import tokenize_domains
    from curate.runtime.files import write_json

    loaded, workers, observer = _prepare(recipe, workers, progress, settings)
    _check(loaded)
    tokenized = tokenize_domains(loaded, workers, observer)
    request = comparison_request(loaded, tokenized, workers, observer)
    comparison = compare_mixtures(every_method(request), workers, observer)
    write_json(loaded.output_dir / "mixtures.json", comparison)
    return MethodsResult(comparison)


def plan(
    recipe: RecipeLike, *, workers: int | None = None, progress: Progress = None
) -> PlanResult:
    """Turn the mixture into whole tokens by domain, and write `plan.json` but no shard.

    Args:
        recipe: The recipe, its path, or a mapping.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Tokens, documents and passes by domain; the tokens sum to `budget_tokens`.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.

    Example:
        `curate.plan("recipe.yaml").to_polars()`
    """
    from curate.pipeline.build import keeps_other_dataset
    from curate.pipeline.plan import plan_dataset, plan_json

    loaded, workers, observer = _prepare(recipe, workers, progress)
    _check(loaded)
    write = not keeps_other_dataset(loaded, observer)
    return PlanResult(plan_json(plan_dataset(loaded, workers, observer, write=write)))


def build(
    recipe: RecipeLike, *, workers: int | None = None, progress: Progress = None
) -> CertificateResult:
    """Build the dataset: tokenise, measure, mix, plan, write shards, read them back and certify.

    Whatever is up to date is reused.

    Args:
        recipe: The recipe, its path, or a mapping.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The certificate; `ok` says whether everything on disk is as planned.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.

    Example:
        `curate.build("recipe.yaml").ok`
    """
    from curate.pipeline.build import build as build_dataset

    loaded, workers, observer = _prepare(recipe, workers, progress)
    built = build_dataset(loaded, workers, observer)
    bad_records = {stats.name: stats.bad_records for stats in built.tokenized.stats}
    return CertificateResult(built.certificate, built.directory, bad_records)


def verify(
    directory: PathLike, *, workers: int | None = None, progress: Progress = None
) -> CertificateResult:
    """Read a built dataset back, compare it with its plan, and write `certificate.json`.

    Args:
        directory: Directory of the dataset.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The certificate; `problems` lists every difference.

    Raises:
        ShardError: There is no finished dataset.

    Example:
        `curate.verify("out/my-mix").problems`
    """
    from curate.dataset.verify import verify as verify_dataset
    from curate.pipeline.build import reopen

    observer = _observer(progress)
    path = Path(directory)
    _, domains = reopen(path)
    if domains is None:
        observer.notice("the token store is missing; tokens are compared by hash only")
    certificate = verify_dataset(path, domains, workers or default_workers(), observer.tick)
    bad_records = None if domains is None else {d.name: d.bad_records for d in domains}
    return CertificateResult(certificate, path, bad_records)


def fit(  # noqa: PLR0913 - keywords, of which a call names two or three
    runs: PathLike | Sequence[PathLike],
    *,
    laws: Sequence[str] | None = None,
    folds: int = 5,
    experts: PathLike | None = None,
    targets: Sequence[str] | None = None,
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> FitResult:
    """Fit laws to a run table and compare them on mixtures that they have not seen.

    Args:
        runs: Run table, or a table of mixtures and one of losses.
        laws: Names of laws; None for all.
        folds: Folds of the cross-validation over mixtures; at least 2.
        experts: Log-probabilities of one expert for each domain; adds regressions with and without
            them.
        targets: Losses to fit; None for every one.
        directory: Where to write `fit.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Errors of every law, best first.

    Raises:
        CurateError: A table is wrong, or a name is unknown.

    Example:
        `curate.fit("runs.csv", laws=["bimix", "dml"]).to_polars()`
    """
    from curate.pipeline.fit_laws import FitInputs, fit_laws

    inputs = FitInputs(
        runs=_paths(runs),
        laws=None if laws is None else tuple(laws),
        folds=folds,
        experts=_path(experts),
        targets=None if targets is None else tuple(targets),
    )
    fields = fit_laws(inputs, _path(directory), workers or default_workers(), _observer(progress))
    return FitResult(fields)


def design(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    count: int | None = None,
    strategy: str = "filling",
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Mapping[str, float] | PathLike | Sequence[str] | None = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> DesignResult:
    """Propose the next mixtures to train, within supply.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        count: Number of mixtures; None for as many as the domains still need.
        strategy: `dirichlet`, `entropy`, `filling` or `determinant`.
        runs: See `mix`, as for all up to `overrides`.
        experts: See `mix`.
        supply: See `mix`.
        budget_tokens: See `mix`.
        max_epochs: See `mix`.
        overrides: See `mix`.
        directory: Without a recipe, where to write `design.csv`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Mixtures by run. With a recipe they are also in `design.csv` in its output directory.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.design(runs="runs.csv", count=8).to_polars()`
    """
    from curate.mixture.design import next_runs
    from curate.pipeline.design_runs import design_json, write_design
    from curate.pipeline.mix import mixture_request
    from curate.pipeline.tokenize import tokenize_domains

    settings = override_texts(overrides)
    target = _path(directory)
    if recipe is None:
        from curate.pipeline.from_run_table import request_without_text

        observer = _observer(progress)
        inputs = _run_table(runs, experts, supply, budget_tokens, max_epochs, settings)
        prepared = request_without_text(inputs)
        for notice in prepared.notices:
            observer.notice(notice)
        request = prepared.request
    else:
        _refuse_both(runs=runs, experts=experts, supply=supply, budget=budget_tokens)
        loaded, workers, observer = _prepare(recipe, workers, progress, settings)
        request = mixture_request(loaded, tokenize_domains(loaded, workers, observer))
        target = loaded.output_dir
    proposal = next_runs(request, strategy, count)
    path = None if target is None else target / "design.csv"
    where = ""
    if path is not None:
        write_design(proposal, path)
        where = f" in {path}"
    observer.notice(
        f"{len(proposal.domains)} domains need {proposal.needed} runs, 3 (domains + 1); there are "
        f"{proposal.existing}, and {len(proposal.mixtures)}{where}"
    )
    return DesignResult(design_json(proposal), path)


def proxy(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike,
    *,
    devices: str | None = None,
    engine: Literal["local", "ray"] | None = None,
    tensorboard: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> ProxyResult:
    """Train small models on many mixtures, and write `runs.csv`; runs in it are not repeated.

    Args:
        recipe: The recipe, its path, or a mapping.
        devices: Such as "cuda:0,cuda:1"; None for the recipe's.
        engine: Where the devices are: "local" or "ray"; None for the recipe's.
        tensorboard: Directory for scalars of every run; None for the recipe's.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Weights and final losses of every run.

    Raises:
        CurateError: Any user-fixable error, including that torch is not installed.

    Example:
        `curate.proxy("recipe.yaml").to_polars()`
    """
    from curate.pipeline.proxies import final_rows, train_proxies

    loaded, workers, observer = _prepare(recipe, workers, progress)
    loaded = _with_devices(loaded, devices, engine, tensorboard)
    swarm = train_proxies(loaded, workers, observer)
    names = [domain.name for domain in loaded.recipe.domains]
    rows = {
        row.run: {
            "weights": dict(zip(names, row.weights, strict=True)),
            "loss": dict(zip(names, row.losses, strict=True)),
            "bits_per_byte": dict(zip(names, row.bits_per_byte, strict=True)),
        }
        for row in final_rows(swarm)
    }
    path = loaded.output_dir / "runs.csv"
    return ProxyResult({"runs": rows, "failed": swarm.failed, "path": str(path)}, path)


def experts(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike,
    *,
    devices: str | None = None,
    engine: Literal["local", "ray"] | None = None,
    tensorboard: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> ProxyResult:
    """Train one small model for each domain, and write their log-probabilities.

    Args:
        recipe: The recipe, its path, or a mapping.
        devices: Such as "cuda:0,cuda:1"; None for the recipe's.
        engine: Where the devices are: "local" or "ray"; None for the recipe's.
        tensorboard: Directory for scalars of every run; None for the recipe's.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Final losses of every expert on every domain; `path` is `experts.parquet`.

    Raises:
        CurateError: Any user-fixable error, including that torch is not installed.

    Example:
        `curate.mix(experts=curate.experts("recipe.yaml").path)`
    """
    from curate.pipeline.proxies import train_domain_experts

    loaded, workers, observer = _prepare(recipe, workers, progress)
    loaded = _with_devices(loaded, devices, engine, tensorboard)
    losses = train_domain_experts(loaded, workers, observer)
    names = [domain.name for domain in loaded.recipe.domains]
    rows = {run: {"loss": dict(zip(names, row, strict=True))} for run, row in losses.items()}
    path = loaded.output_dir / "experts.parquet"
    return ProxyResult({"experts": rows, "path": str(path)}, path)


def validate(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike,
    *,
    seeds: int = 3,
    presets: Sequence[str] = (),
    up: bool = False,
    devices: str | None = None,
    engine: Literal["local", "ray"] | None = None,
    tensorboard: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> ValidationResult:
    """Train the recommended mixture and its rivals with several seeds, and judge the advice.

    Args:
        recipe: The recipe, its path, or a mapping.
        seeds: Runs of each mixture; at least 2.
        presets: Sizes of models; empty for the recipe's.
        up: Also train one size larger, to see whether the ranking holds.
        devices: Such as "cuda:0,cuda:1"; None for the recipe's.
        engine: Where the devices are: "local" or "ray"; None for the recipe's.
        tensorboard: Directory for scalars of every run; None for the recipe's.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The verdict and the losses; also written to `validation.json`.

    Raises:
        CurateError: Any user-fixable error, including that torch is not installed.

    Example:
        `curate.validate("recipe.yaml", seeds=5).verdict`
    """
    from curate.pipeline.validate import ValidationSettings, validate_mixture

    loaded, workers, observer = _prepare(recipe, workers, progress)
    loaded = _with_devices(loaded, devices, engine, tensorboard)
    settings = ValidationSettings(seeds, tuple(presets), up)
    return ValidationResult(validate_mixture(loaded, settings, workers, observer))


def _prepare(
    recipe: RecipeLike, workers: int | None, progress: Progress, overrides: Sequence[str] = ()
) -> tuple[LoadedRecipe, int, Observer]:
    """Load the recipe unless it is, fill in defaults, and pass its notices on."""
    observer = _observer(progress)
    if not isinstance(recipe, LoadedRecipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise RecipeError(
            "overrides: the recipe is loaded already; use load_recipe(source, overrides)"
        )
    for notice in recipe.notices:
        observer.notice(notice)
    return recipe, workers or default_workers(), observer


def _observer(progress: Progress) -> Observer:
    if progress is None:
        return Observer()
    if progress == "terminal":
        from curate.report.terminal import TerminalObserver, terminal_console

        return TerminalObserver(terminal_console())
    return progress


def _check(loaded: LoadedRecipe) -> None:
    """Check the recipe's names; imports every method and format, so only where they are needed."""
    from curate.pipeline.check import check_names

    check_names(loaded)


def _run_table(  # noqa: PLR0913 - the arguments of three functions, in one order
    runs: PathLike | Sequence[PathLike] | None,
    experts: PathLike | None,
    supply: Mapping[str, float] | PathLike | Sequence[str] | None,
    budget_tokens: float | None,
    max_epochs: float,
    overrides: tuple[str, ...],
) -> Any:
    from curate.pipeline.from_run_table import RunTableInputs

    if supply is None:
        supply = ()
    elif isinstance(supply, Mapping):
        supply = [f"{name}={tokens}" for name, tokens in supply.items()]
    elif isinstance(supply, str | os.PathLike):
        supply = [os.fspath(supply)]
    return RunTableInputs(
        runs=_paths(runs or ()),
        experts=_path(experts),
        supply=tuple(supply),
        budget_tokens=None if budget_tokens is None else int(budget_tokens),
        max_epochs=max_epochs,
        overrides=overrides,
    )


def _refuse_both(**instead: object) -> None:
    """Refuse what stands in for a recipe where there is one."""
    for name, value in instead.items():
        if value:
            raise RecipeError(
                f"RECIPE and --{name} exclude each other: a recipe names its tables below "
                "mixture.evidence, and its text is the supply"
            )


def _with_devices(
    loaded: LoadedRecipe, devices: str | None, engine: str | None, tensorboard: PathLike | None
) -> LoadedRecipe:
    """Replace the places where proxies train and report."""
    changes: dict[str, Any] = {}
    if devices is not None:
        changes["device"] = devices
    if engine is not None:
        changes["engine"] = engine
    if tensorboard is not None:
        changes["tensorboard"] = str(Path(tensorboard).resolve())
    return loaded.with_proxies(with_fields(loaded.proxies, **changes)) if changes else loaded


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _paths(paths: PathLike | Sequence[PathLike]) -> tuple[Path, ...]:
    if isinstance(paths, str | os.PathLike):
        return (Path(paths),)
    return tuple(Path(path) for path in paths)
