"""The one reader and the one writer of image files."""
