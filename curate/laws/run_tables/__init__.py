"""Tables of training runs: how columns are found, and how rows become runs."""
