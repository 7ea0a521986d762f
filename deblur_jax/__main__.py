"""``python -m deblur_jax`` is the program ``deblur-jax``."""

from deblur_jax.cli import main

if __name__ == "__main__":
    main()
