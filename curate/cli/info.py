"""The commands that show what is available: methods, formats, the embedded corpus, the machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from curate import __version__
from curate.cli.session import EXIT_FAILED, print_rows, say


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def methods(as_json: bool) -> None:
    """List mixing methods: what each does and needs, and its paper."""
    from curate.mixture import METHODS

    rows = [
        {"method": method.name, "what": method.summary, "needs": method.needs,
         "paper": method.paper}
        for method in METHODS.values()
    ]  # fmt: skip
    print_rows(rows, as_json)


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def formats(name: str | None, as_json: bool) -> None:
    """List output formats; with a NAME, show how to load its files."""
    from curate.formats import FORMATS

    if name is not None:
        _print_format(name)
        return
    rows = [
        {"format": row.name, "what": row.summary, "for": row.trainers} for row in FORMATS.values()
    ]
    print_rows(rows, as_json)


def _print_format(name: str) -> None:
    """Print a format, its options, and how to load the files of each variant."""
    from curate.formats import Settings, configure, find

    row = find(name)
    click.echo(f"{row.name}: {row.summary}\nfor {row.trainers}\n")
    for key, option in row.options.items():
        choices = f"; one of {', '.join(option.choices)}" if option.choices else ""
        click.echo(f"output.options.{key}: {option.summary}{choices} (default {option.default})")
    click.echo("\n" * bool(row.options) + row.snippet.format(path="train/shard-00000"))
    variant = row.options.get("variant")
    if variant is None:
        return
    for choice in variant.choices:
        if choice != variant.default:
            configured = configure(name, Settings(options={"variant": choice}))
            snippet = configured.snippet.format(path="train/shard-00000")
            click.echo(f"variant {choice}:\n\n{snippet}")


@click.command()
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path(".curate"),
    help="Directory to harvest into; default: .curate.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def corpus(cache: Path, as_json: bool) -> None:
    """Show the embedded corpus: domains, sizes, source packages."""
    from curate.sources.embedded.corpus import DOMAINS, materialise

    info = materialise(cache / "corpus", notice=lambda line: say(f"note: {line}", err=True))
    rows = [
        {"domain": f"corpus://{name}", "what": DOMAINS[name],
         "documents": f"{domain.documents:,}", "MB": f"{domain.bytes / 1e6:.1f}",
         "content hash": domain.content_hash[:16]}
        for name, domain in info.domains.items()
    ]  # fmt: skip
    print_rows(rows, as_json)
    if not as_json:
        packages = ", ".join(f"{name} {version}" for name, version in info.distributions.items())
        click.echo(f"harvested from Python {info.python}, {packages}")
        for note in info.notes:
            say(f"note: {note}")


@click.command()
@click.argument("artifact", default="recipe")
def schema(artifact: str) -> None:
    """Print the JSON Schema of the recipe, or of a written file.

    Editors check recipes by it. ARTIFACT is the name of a file that curate writes, without its
    suffix, such as stats or certificate.
    """
    from curate.recipe import schema as recipe_schema
    from curate.report.schemas import artifact_schema

    fields = recipe_schema() if artifact == "recipe" else artifact_schema(artifact)
    click.echo(json.dumps(fields, indent=2))


@click.command()
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="ray: check the machines of the Ray cluster; exit code 1 if any is unfit.",
)
@click.option(
    "--path",
    "paths",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="With ray: a directory that all must share; may be repeated. Default: this one.",
)
def doctor(engine: str, paths: tuple[Path, ...]) -> None:
    """Show the machine, versions, and installed optional parts."""  # fmt: skip
    import platform

    from curate.runtime.workers import default_workers
    from curate.tokens.backends import BACKENDS, installed

    if engine == "ray":
        _check_cluster(paths or (Path(),))
        return
    click.echo(f"curate {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(f"workers by default: {default_workers()}")
    names = ["numpy", "numba", "pyarrow", "zstandard", *BACKENDS, "huggingface_hub", "datasets"]
    names += ["torch", "tensorboard", "ray", "matplotlib"]
    for name in dict.fromkeys(names):
        click.echo(f"  {name}: {installed(name) or 'not installed'}")


def _check_cluster(paths: Sequence[Path]) -> None:
    """Print a line for each machine, and what is wrong with it."""
    from curate.runtime.cluster_check import check_cluster
    from curate.runtime.registry import counted

    machines = check_cluster(paths)
    for machine in machines:
        room = ", ".join(
            f"{free / 1e9:,.1f} GB free in {path.resolve()}"
            for path, free in zip(paths, machine.free_bytes, strict=False)
            if free >= 0
        )
        say(f"{machine.name}: {machine.cores} cores, {machine.memory_bytes / 1e9:,.1f} GB of memory"
            f"{', ' if room else ''}{room}")  # fmt: skip
        for problem in machine.problems:
            say(f"  {problem}")
    unfit = sum(1 for machine in machines if machine.problems)
    total = counted(len(machines), "machine")
    say(f"{unfit} of {total} unfit" if unfit else f"{total}: same paths, versions and time")
    if unfit:
        raise SystemExit(EXIT_FAILED)
