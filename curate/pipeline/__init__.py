"""The stages of a build and of its evidence, and the Python functions that run them.

In order: `tokenize`, `measure`, `mix`, `plan`, `write`, `build`, `proxies`, `validate`. `api` holds
one function for each command, `results` what they return.
"""
