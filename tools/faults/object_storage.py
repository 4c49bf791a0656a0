"""Read sources from a faulty S3 server, replace them in the middle, and compare.

Requests are dropped, refused, delayed, cut short or answered with less than was asked for, and the
object is replaced by another at a request drawn from the seed. The run must read all of the old
one, or all of the new one, or end with the line that says that it changed; the next must read the
new one. Needs obstore: `pip install 'curate-mix[s3]'`.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from trials import Row, curate, main, timed, workplace, write_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from s3_server import Faults, running  # type: ignore[import-not-found]  # noqa: E402

DOCUMENTS = 25_000
"""Makes files of two segments."""


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, str]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=500, compression="none")
    return buffer.getvalue()


FORMS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "a.jsonl": lines,
    "a.jsonl.zst": lambda rows: zstandard.compress(lines(rows)),
    "a.parquet": parquet,
}


def run(trials: int, seed: int) -> list[Row]:
    """Spread trials over the forms of files."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(3000)]
    old = [
        {"id": str(number), "text": " ".join(draw.choices(words, k=60))}
        for number in range(DOCUMENTS)
    ]
    new = [{**row, "text": row["text"].upper()} for row in old]  # as long
    rows = []
    for number, (name, write) in enumerate(FORMS.items()):
        row = Row(f"object storage, object replaced: {name}")
        share = trials // len(FORMS) + (number < trials % len(FORMS))
        with workplace() as root:
            contents = write(old), write(new)
            expected = [_stats_of_local(root, name, content) for content in contents]
            for trial in range(share):
                timed(row, partial(_trial, row, root, contents, expected, (name, seed + trial)))
        rows.append(row)
    return rows


def _stats_of_local(root: Path, name: str, content: bytes) -> Any:
    """Measure a file on this machine."""
    (root / name).write_bytes(content)
    recipe = write_recipe(root / "recipe.yaml", domains=[{"name": "web", "paths": name}])
    if curate(["stats", recipe.name], root).code:
        raise SystemExit("the local file cannot be measured")
    return _stats(root)


def _stats(root: Path) -> Any:
    return json.loads((root / "out" / "stats.json").read_text())["domains"]


def _trial(
    row: Row, root: Path, contents: tuple[bytes, bytes], expected: list[Any], case: tuple[str, int]
) -> None:
    """Measure the object while it is replaced, and again afterwards."""
    name, seed = case
    draw = random.Random(repr(case))
    domains = [{"name": "web", "paths": f"s3://bucket/{name}"}]
    recipe = write_recipe(root / "recipe.yaml", domains=domains, cache=f"cache-{seed}")
    (root / "out" / "stats.json").unlink(missing_ok=True)
    with running("bucket") as store:
        store.put("bucket", name, contents[0])
        store.faults = Faults(seed=seed, share=0.25, most=2, slow_seconds=0.02)
        left = draw.randint(1, 30)

        def replace(_: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                store.put("bucket", name, contents[1])

        store.before = replace
        done = curate(["stats", recipe.name], root, **store.environment)
        outcome = "changed while"
        if done.code == 0:
            read = [kind for kind, of in zip(("old", "new"), expected, strict=True)
                    if of == _stats(root)]  # fmt: skip
            outcome = f"all of the {read[0]}" if read else "a mixture"
        again = curate(["stats", recipe.name], root, **store.environment)
        reads_new = left > 0 or (again.code == 0 and _stats(root) == expected[1])
    complaint = done.complaint((0, 2)) or again.complaint((0, 2))
    if done.code == 2 and "changed while it was being read" not in done.errors:
        complaint = complaint or done.errors
    if complaint or outcome == "a mixture" or not reads_new:
        row.failed(f"seed {seed}: {complaint}, {outcome}, the next reads the new: {reads_new}")
    else:
        row.held(outcome)


if __name__ == "__main__":
    main(run, "Replace objects while they are read through a faulty store.", 60)
