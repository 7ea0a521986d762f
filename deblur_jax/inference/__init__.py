"""An image of any size to its restoration."""
