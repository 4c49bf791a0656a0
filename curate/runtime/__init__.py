"""Files written whole or not at all, worker processes here or on Ray, compiled loops, progress."""
