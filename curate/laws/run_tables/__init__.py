"""Read tables of training runs: match their columns, and turn rows into runs."""
