"""Numerics that the models share."""
