"""A page on this machine to try restoration on: its work in ``service``, its looks in ``page``."""
