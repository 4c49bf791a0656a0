"""What each trainer does with a mixture of domains written apart."""
