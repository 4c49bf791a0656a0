"""Small language models, many at once, trained straight from the token store.

`shape` says what a model is; `model`, `loss` and `optimiser` are its arithmetic, written for K
models whose parameters are stacked along a leading axis (one model is K = 1). `group` trains one
such stack on a GPU and several on a CPU, of sizes that `memory` and `cost` choose.
`training_batches` draws tokens with the sampler of the dataset builder, `train` runs a swarm,
`experts` trains one model for each domain. Left out: tensor or data parallel training of one model.
Only `shape`, `cost`, `runs`, `claims` and `swarm_mixtures` can be imported without torch.
"""
