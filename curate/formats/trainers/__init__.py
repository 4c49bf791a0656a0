"""Trainers' own mixtures of domains that are written apart: predictions and configuration."""
