"""Restored images measured against sharp ones."""
