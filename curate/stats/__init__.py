"""What is known of a domain before any model is trained: counts and entropies."""
