"""What MkDocs does besides: pages load nothing from elsewhere."""

import re
from typing import Any

_SCRIPTS_OF_NOTEBOOKS = re.compile(
    r'<script(?: type="(?:module|text/x-mathjax-config)"| src="")[^>]*>.*?</script>', re.DOTALL
)
"""Those that would fetch diagrams and formulas, of which our notebook has none."""


def on_post_page(output: str, **_: Any) -> str:
    """Takes the scripts out of a page."""
    return _SCRIPTS_OF_NOTEBOOKS.sub("", output)
