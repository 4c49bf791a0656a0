"""Results of curate's Python functions: the JSON that commands print, and tables of it."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from curate.runtime.tabular import Row, Tabular


@dataclass(frozen=True, repr=False)
class Result(Tabular, ABC):
    """Base of all results; notebooks and terminals show them as a table."""

    json: dict[str, Any]
    """The fields that the command prints with `--json`."""

    title: ClassVar[str] = ""
    """Heading of the table."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that the command prints with `--json`."""
        return self.json

    def __repr__(self) -> str:
        """Return the table as text, with the middle left out where it is large."""
        import polars as pl

        with pl.Config(tbl_hide_column_data_types=True, tbl_hide_dataframe_shape=True):
            return f"{type(self).__name__}: {self.title}\n{self.to_polars()}"

    def _repr_html_(self) -> str:
        return self.to_html(self.title)


@dataclass(frozen=True, repr=False)
class StatsResult(Result):
    """Documents, bytes, tokens and entropies of every domain."""

    title: ClassVar[str] = "domains; entropies in nats per token"

    def rows(self) -> list[Row]:
        """Return one row for each domain; `<measure>_low` and `_high` are None if not measured."""
        rows = []
        for name, domain in self.json["domains"].items():
            row: Row = {"domain": name, **_scalars(domain)}
            for measure, entropy in domain["entropy"].items():
                row[f"{measure}_nats"] = entropy["nats"]
                row[f"{measure}_low"] = entropy.get("low")
                row[f"{measure}_high"] = entropy.get("high")
            rows.append(row)
        return rows


@dataclass(frozen=True, repr=False)
class MixtureResult(Result):
    """Shares of tokens that a method recommends."""

    supply_tokens: dict[str, int | None]
    """Training tokens that each domain has; None where unknown."""

    title: ClassVar[str] = "mixture; weights are shares of tokens"

    @property
    def weights(self) -> dict[str, float]:
        """Share of the training tokens by domain; they sum to 1."""
        weights: dict[str, float] = self.json["weights"]
        return weights

    def rows(self) -> list[Row]:
        """Return one row for each domain; `low` and `high` end its 95 % interval, if any."""
        low, high = self.json["low"] or {}, self.json["high"] or {}
        return [
            {
                "domain": name,
                "weight": weight,
                "low": low.get(name),
                "high": high.get(name),
                "unconstrained": self.json["unconstrained"][name],
                "epochs": self.json["epochs"][name],
                "supply_tokens": self.supply_tokens[name],
            }
            for name, weight in self.weights.items()
        ]


@dataclass(frozen=True, repr=False)
class StagedMixtureResult(MixtureResult):
    """Shares of tokens that methods recommend for each stage; `weights` are those of all stages."""

    title: ClassVar[str] = "mixtures by stage; weights are shares of tokens"

    def rows(self) -> list[Row]:
        """Return one row for each stage and domain."""
        return [
            {"stage": name, **row}
            for name, fields in self.json["stages"].items()
            for row in MixtureResult(fields, fields["supply_tokens"]).rows()
        ]


@dataclass(frozen=True, repr=False)
class MethodsResult(Result):
    """Mixtures of several methods for the same domains, budget and evidence."""

    title: ClassVar[str] = "mixtures by method; weights are shares of tokens"

    def rows(self) -> list[Row]:
        """Return one row for each method and domain."""
        return [
            {
                "method": method,
                "domain": name,
                "weight": weight,
                "epochs": mixture["epochs"][name],
                "predicted_loss": mixture["predicted_loss"],
            }
            for method, mixture in self.json["mixtures"].items()
            for name, weight in mixture["weights"].items()
        ]


@dataclass(frozen=True, repr=False)
class FrontResult(Result):
    """Mixtures between the best for one group of targets and for another."""

    title: ClassVar[str] = "Pareto front; weights are shares of tokens"

    def rows(self) -> list[Row]:
        """Return one row for each point, with the loss of each group and the weight of a domain."""
        return [
            {
                **{f"loss_{group}": loss for group, loss in point["losses"].items()},
                **{f"w_{name}": weight for name, weight in point["weights"].items()},
            }
            for point in self.json["points"]
        ]


@dataclass(frozen=True, repr=False)
class PlanResult(Result):
    """Whole tokens, documents and passes by domain."""

    title: ClassVar[str] = "plan"

    def rows(self) -> list[Row]:
        """Return one row for each domain."""
        return _domain_rows(self.json)


@dataclass(frozen=True, repr=False)
class CertificateResult(Result):
    """A dataset on disk, read back and compared with its plan."""

    directory: Path | str
    """Directory of the dataset, or its URL."""
    bad_records: dict[str, int] | None
    """Bad records by domain; None where the token store is missing."""
    path: Path | str | None = None
    """File or URL that the certificate was written to; None where the disk takes no more."""
    mixture: dict[str, Any] | None = None
    """The fields of `mixture.json`, after a build."""
    stats: dict[str, Any] | None = None
    """The fields of `stats.json`, after a build."""

    title: ClassVar[str] = "planned and realised tokens"

    @property
    def ok(self) -> bool:
        """Whether everything on disk is as planned; `problems` says what is not."""
        return bool(self.json["ok"])

    @property
    def problems(self) -> list[str]:
        """Differences between plan and disk, one sentence each."""
        return list(self.json["problems"])

    def rows(self) -> list[Row]:
        """Return one row for each domain."""
        return _domain_rows(self.json)


@dataclass(frozen=True, repr=False)
class PushResult(Result):
    """Files that were pushed to the Hugging Face Hub, or would be."""

    title: ClassVar[str] = "files on the Hugging Face Hub"

    @property
    def files(self) -> list[dict[str, Any]]:
        """Path and bytes of each file."""
        return list(self.json["files"])

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(int(file["bytes"]) for file in self.files)

    def rows(self) -> list[Row]:
        """Return one row for each file."""
        return [dict(file) for file in self.files]


@dataclass(frozen=True, repr=False)
class RemovalResult(Result):
    """Listed documents that datasets hold, and what removing them changed."""

    title: ClassVar[str] = "listed documents in datasets"

    def rows(self) -> list[Row]:
        """Return one row for each listed document of each dataset."""
        return [
            {
                "directory": dataset["directory"],
                **_scalars(document),
                "places": len(document["places"]),
            }
            for dataset in self.json["datasets"]
            for document in dataset["documents"]
        ]


@dataclass(frozen=True, repr=False)
class FitResult(Result):
    """Laws compared on a run table by cross-validation over mixtures."""

    title: ClassVar[str] = "laws, best first; errors on mixtures they have not seen"

    def rows(self) -> list[Row]:
        """Return one row for each law; a law that could not be fitted has a `problem`."""
        return [
            {
                "law": name,
                "seconds": law["seconds"],
                "ties_with_best": law["ties_with_best"],
                "beats_dummies": law["beats_dummies"],
                "problem": law["problem"],
                **_scalars(law["unseen_mixtures"] or {}),
            }
            for name, law in self.json["laws"].items()
        ]


@dataclass(frozen=True, repr=False)
class DesignResult(Result):
    """Mixtures to train next."""

    path: Path | None
    """`design.csv`; None if it was not written."""

    title: ClassVar[str] = "mixtures to train, as shares of tokens"

    def rows(self) -> list[Row]:
        """Return one row for each run, with a column for each domain."""
        return [{"run": run, **_prefixed("w", row)} for run, row in self.json["runs"].items()]


@dataclass(frozen=True, repr=False)
class ProxyResult(Result):
    """Losses of small models, at the end of their runs."""

    path: Path
    """`runs.csv` or `experts.parquet`."""

    title: ClassVar[str] = "runs; losses in nats per token"

    def rows(self) -> list[Row]:
        """Return one row for each run, with columns for each domain."""
        return [
            {
                "run": run,
                **_prefixed("w", row.get("weights", {})),
                **_prefixed("loss", row["loss"]),
            }
            for run, row in (self.json.get("runs") or self.json.get("experts") or {}).items()
        ]


@dataclass(frozen=True, repr=False)
class ValidationResult(Result):
    """The recommended mixture against its rivals, trained with several seeds."""

    title: ClassVar[str] = "candidates; objective in nats per token"

    @property
    def verdict(self) -> str:
        """`confirmed`, `tied` or `refuted`."""
        return str(self.json["verdict"])

    def rows(self) -> list[Row]:
        """Return one row for each size and candidate, best first."""
        return [
            {
                "preset": size["preset"],
                "mixture": name,
                "objective": size["candidates"][name]["objective"]["mean"],
                "low": size["candidates"][name]["objective"]["low"],
                "high": size["candidates"][name]["objective"]["high"],
                "recommended_is": size["against"].get(name, {}).get("verdict"),
            }
            for size in self.json["sizes"]
            for name in size["ranking"]
        ]


def _domain_rows(fields: dict[str, Any]) -> list[Row]:
    """Return one row for each domain, of each stage where there are stages."""
    if "stages" in fields:
        return [
            {"stage": stage, **row}
            for stage, of_stage in fields["stages"].items()
            for row in _domain_rows(of_stage)
        ]
    return [{"domain": name, **_scalars(row)} for name, row in fields["domains"].items()]


def _scalars(fields: dict[str, Any]) -> Row:
    return {key: value for key, value in fields.items() if not isinstance(value, dict | list)}


def _prefixed(prefix: str, values: dict[str, Any]) -> Row:
    return {f"{prefix}_{name}": value for name, value in values.items()}


@dataclass(frozen=True, repr=False)
class ReportResult(Result):
    """The path and size of a report."""

    title: ClassVar[str] = "report"

    @property
    def path(self) -> Path:
        """The HTML file."""
        return Path(self.json["path"])

    def rows(self) -> list[Row]:
        """Return one row with the path and the size in bytes."""
        return [_scalars(self.json)]
