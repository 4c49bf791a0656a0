"""The stages that a recipe drives, in order: tokenize, measure, mix, plan, write, validate."""
