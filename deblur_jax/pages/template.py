"""Templates of the pages; none of them loads anything from elsewhere."""

import math
from typing import Any
from urllib.parse import quote

import jinja2

from deblur_jax.runtime.names import shown


def render(template: str, **values: Any) -> str:
    """A page as HTML.

    Args:
        template: the file beside this module.
        **values: what it shows. Text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "shown": shown, "link": link}
    return environment.get_template(template).render(**values)


def number(value: float | None, form: str = ".2f") -> str:
    """A number in words where it is not finite."""
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return format(value, form)


def link(path: str) -> str:
    """The address of a file relative to the page, whatever bytes are in its name."""
    return quote(path.encode("utf-8", "surrogateescape"))
