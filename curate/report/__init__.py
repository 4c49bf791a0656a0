"""Output for people: terminal tables, live progress and the dataset card."""
