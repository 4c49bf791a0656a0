"""The stages that a recipe drives, and the Python functions over them.

In order: `tokenize`, `measure`, `mix`, `plan`, `write`, `build`, `proxies`, `validate`. `api` holds
one function for each command, `results` what they return.
"""
