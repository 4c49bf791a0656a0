"""How far a domain's conditional-entropy weight moves when only a hundredth of it is there.

Each domain of a recipe in turn is cut to a hundredth of its bytes (documents in the order of a hash
of their text, the last one cut), the others stay whole. Compared are the plug-in on all there is,
the plug-in and the corrected estimate on samples of equal size (the cut domain's, for all), and the
corrected estimate with every domain on a sample of its own. A hundredth of the documents is other
text, too; `--thinned` takes a hundredth of the excerpts of the whole domain instead, which leaves
the effect of size alone: plug-in and corrected, the others whole. Run as
`python tools/bench/truncation.py RECIPE WORK_DIRECTORY`; the recipe's domains must be JSON Lines,
plain or compressed, a file each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash
import yaml

from curate.engine.local import map_tasks
from curate.ingest import Ingested, ingest
from curate.observer import Observer
from curate.recipe import load
from curate.sources import SegmentReader
from curate.sources.plans import FilePlan
from curate.stats.conditional import Conditional, conditional
from curate.stats.pairs import draw_pairs
from curate.stats.sampling import MOST_TOKENS

CUT = "-cut"
SHARE = 0.01


def write_cut(texts: list[str], path: Path) -> None:
    """A hundredth of the texts' bytes, documents in the order of a hash."""
    left = int(sum(len(text.encode()) for text in texts) * SHARE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text in sorted(texts, key=lambda one: xxhash.xxh3_64_intdigest(one.encode())):
            if left <= 0:
                break
            piece = text.encode()[:left].decode("utf-8", "ignore")
            left -= len(piece.encode())
            if piece.strip():
                file.write(json.dumps({"text": piece}, ensure_ascii=False) + "\n")


def texts_of(plan: FilePlan) -> Iterator[str]:
    """All documents of a file."""
    reader, segment, ended = SegmentReader(), 0, False
    while not ended and (plan.count is None or segment < plan.count):
        for block in reader.read(plan.segment(segment)):
            yield from block.texts
            ended = block.end_of_file
        segment += 1


def with_cuts(recipe: Path, directory: Path) -> Path:
    """A recipe of all domains, whole and cut."""
    loaded = load(recipe)
    written = yaml.safe_load(recipe.read_text("utf-8"))
    found = ingest(loaded, 2, Observer())
    for plans, domain in zip(found.plans, list(written["domains"]), strict=True):
        path = directory / f"{domain['name']}{CUT}.jsonl"
        if not path.exists():
            write_cut([text for plan in plans for text in texts_of(plan)], path)
        written["domains"].append({"name": domain["name"] + CUT, "paths": str(path)})
    written["cache"] = str(loaded.cache_dir.resolve())
    changed = directory / "cut.yaml"
    changed.write_text(yaml.safe_dump(written), "utf-8")
    return changed


def weight(nats: dict[str, float], name: str) -> float:
    """Softmax weight of a domain."""
    values = np.array(list(nats.values()))
    return float(np.exp(nats[name] - values.max()) / np.exp(values - values.max()).sum())


class Samples:
    """Conditional entropies of domains at any sample size, each measured once."""

    def __init__(self, found: Ingested, seed: int) -> None:
        """Of these domains."""
        self._domains = {domain.name: domain for domain in found.domains}
        self._tokenizer = found.tokenizer
        self._seed = seed
        self._known: dict[tuple[str, int], Conditional] = {}

    def tokens(self, name: str) -> int:
        """Tokens of text, end tokens left out."""
        domain = self._domains[name]
        return domain.total_tokens - len(domain)

    def measure(self, asked: list[tuple[str, int]]) -> list[Conditional]:
        """The estimates of domains at sizes, in this order."""
        missing = [key for key in dict.fromkeys(asked) if key not in self._known]
        for key, found in zip(missing, map_tasks(self._one, missing, 2), strict=True):
            self._known[key] = found
        return [self._known[key] for key in asked]

    def _one(self, key: tuple[str, int]) -> Conditional:
        return conditional(draw_pairs(self._domains[key[0]], self._tokenizer, key[1], self._seed))


def thinned(samples: Samples, whole: dict[str, Conditional], tokens: dict[str, int]) -> None:
    """Print the moves when so many tokens of a domain are drawn from all of it."""
    small = dict(zip(tokens, samples.measure(list(tokens.items())), strict=True))
    for name in tokens:
        moves = []
        for measure in ("plugin", "nats"):
            before = {one: getattr(found, measure) for one, found in whole.items()}
            after = {**before, name: getattr(small[name], measure)}
            moves.append((weight(before, name), weight(after, name)))
        cells = [f"{a:.4f} to {b:.4f}" for a, b in moves]
        share = abs(moves[1][1] - moves[1][0]) / abs(moves[0][1] - moves[0][0])
        print(f"{name:12}{tokens[name]:9,}", *(f"{cell:>20}" for cell in cells), f"{share:7.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--thinned", action="store_true")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    loaded = load(with_cuts(arguments.recipe, arguments.directory.resolve()))
    found = ingest(loaded, 2, Observer())
    names = [domain.name for domain in found.domains if not domain.name.endswith(CUT)]
    plugin = {stats.name: stats.entropies.conditional for stats in found.stats}
    samples = Samples(found, loaded.recipe.seed)
    own = {
        name: min(MOST_TOKENS, samples.tokens(name)) for name in [*names, *[n + CUT for n in names]]
    }
    whole_tokens = min(own[name] for name in names)
    whole = dict(zip(names, samples.measure([(n, whole_tokens) for n in names]), strict=True))
    heading = ("plug-in, all", "plug-in, equal", "corrected, equal", "corrected, own")
    if arguments.thinned:
        thinned(samples, whole, {name: own[name + CUT] for name in names})
        return
    print(f"{'domain':12}{'tokens':>9}", *(f"{name:>28}" for name in heading))
    for name in names:
        cut = name + CUT
        others = [one for one in names if one != name]
        small = samples.measure([(one, own[cut]) for one in [*others, cut]])
        now = dict(zip([*others, name], small, strict=True))
        rows = [
            (weight({one: plugin[one] for one in names}, name),
             weight({**{one: plugin[one] for one in others}, name: plugin[cut]}, name)),
            (weight({one: whole[one].plugin for one in names}, name),
             weight({one: now[one].plugin for one in now}, name)),
            (weight({one: whole[one].nats for one in names}, name),
             weight({one: now[one].nats for one in now}, name)),
            (weight({one: whole[one].nats for one in names}, name),
             weight({**{one: whole[one].nats for one in others}, name: now[name].nats}, name)),
        ]  # fmt: skip
        moved = abs(rows[0][1] - rows[0][0])
        cells = [f"{a:.4f} to {b:.4f} ({abs(b - a) / moved:6.1%})" for a, b in rows]
        print(f"{name:12}{own[cut]:9,}", *(f"{cell:>28}" for cell in cells))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
