"""Weights: folders that describe themselves, and official files."""
