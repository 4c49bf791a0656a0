"""A dataset on disk: its manifest, writing it, reading it back, the certificate."""
