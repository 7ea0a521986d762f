"""Configurations of tests."""

import dataclasses


def changed(config, **values):
    """A configuration with other values; ``data__train`` is the field ``train`` of ``data``."""
    inner = {}
    for name, value in values.items():
        section, _, field = name.rpartition("__")
        if section:
            inner.setdefault(section, {})[field] = value
    replaced = {name: value for name, value in values.items() if "__" not in name}
    for section, fields in inner.items():
        replaced[section] = dataclasses.replace(getattr(config, section), **fields)
    return dataclasses.replace(config, **replaced)
