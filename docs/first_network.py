# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a blurred image to a network of your own
#
# A small MIMO-UNet learns to undo one motion of a camera, restores an image that it has not seen,
# and shows how far it looks. It takes about two minutes on two cores of a CPU, and downloads
# nothing.

# %%
import dataclasses
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import deblur_jax
from deblur_jax.analysis import receptive_field
from deblur_jax.analysis.figures import receptive_field_figure
from deblur_jax.commands.config_file import load_config
from deblur_jax.training.loop import train

# %% [markdown]
# ## A pair of images
#
# The embedded data set makes motion blur from sharp scenes. `synthetic:pan` is its narrowest
# family: every image is blurred by the same motion.

# %%
pair = deblur_jax.open_pairs("synthetic:pan", "test", size=160)[3]
blurred = pair["blurred"].astype(np.float32) / 255
sharp = pair["sharp"].astype(np.float32) / 255


def show(**images):
    """Images side by side, under their names."""
    figure, all_axes = plt.subplots(1, len(images), figsize=(4 * len(images), 4))
    for axes, name in zip(all_axes, images, strict=True):
        axes.imshow(np.clip(images[name], 0, 1))
        axes.set_title(name)
        axes.axis("off")
    figure.tight_layout()


show(blurred=blurred, sharp=sharp)
before = deblur_jax.score(blurred, sharp, "float").psnr
print(f"blurred: {before:.2f} dB")

# %% [markdown]
# ## A network
#
# The config of the quickstart, with a third of its steps. The network has 137,000 parameters, the
# paper's has 6.8 million.

# %%
config = load_config("quickstart")
config = dataclasses.replace(config, num_steps=250, checkpoint_every=250)
print(config.model)
print(config.optimizer)

# %%
workdir = Path(tempfile.mkdtemp())
outcome = train(config.validate(), workdir)

# %%
lines = (workdir / "log.jsonl").read_text().splitlines()
steps = [row for row in map(json.loads, lines) if "loss" in row]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot([row["step"] for row in steps], [row["loss"] for row in steps], "o-")
axes.set_xlabel("step")
axes.set_ylabel("loss")
figure.tight_layout()
print(f"{steps[-1]['images_per_second']:.0f} images of 64x64 a second")

# %% [markdown]
# ## An image restored

# %%
restorer = deblur_jax.Restorer.load(workdir)
restored = restorer(blurred)
show(blurred=blurred, restored=restored, sharp=sharp)
after = deblur_jax.score(restored, sharp, "float").psnr
print(f"{before:.2f} dB before, {after:.2f} dB after")

# %% [markdown]
# ## How far it looks
#
# The gradient of one pixel of the result with respect to all pixels of the input. A network of
# convolutions sees a square; how the papers' recurrences change that is in [why a
# recurrence](recurrence.md).

# %%
influence = receptive_field.effective_receptive_field(restorer.model, restorer.params, blurred)
receptive_field_figure({"after 250 steps": influence})

# %%
print({name: round(float(value), 1) for name, value in receptive_field.extent(influence).items()})
