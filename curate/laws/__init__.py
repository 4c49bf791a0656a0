"""Laws and regressors over run tables: how loss depends on the mixture, tokens and model size."""
