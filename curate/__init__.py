"""curate: turn raw text corpora into the right pretraining mix.

The parts, in the order data meets them: `recipe`, `sources`, `tokens`, `stats`, `mixture`,
`plan`, `sample`, `formats`, `verify`, `report`. `curate.cli` is a thin skin over them.
"""

__version__ = "0.1.0"
