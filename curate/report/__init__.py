"""What a person reads: terminal tables and progress, and the dataset card."""
