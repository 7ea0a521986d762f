"""A first run: a small MIMO-UNet learns to undo one camera motion, on a CPU, in minutes.

    python train.py --config configs/quickstart.py --workdir runs/quickstart
    python evaluate.py --weights runs/quickstart --data synthetic:pan --out runs/quickstart/test

Hardware: 2 CPU cores, about 5 minutes. Expected: +4 dB on held-out photographs (25.8 to 30 dB).

The embedded data set's narrowest family, "pan": every image is blurred by the same motion of the
camera; the scenes of training, validation and test differ. A network of 137,000 parameters can
learn that in minutes, and no more than that. ``mimo_unet_gopro.py`` is the paper's experiment.
"""

from deblur_jax import Config, DataConfig, OptimizerConfig, model_config


def get_config() -> Config:
    return Config(
        about="Quickstart: the narrow family synthetic:pan, one motion of the camera. "
        "Next: configs/mimo_unet_gopro.py",
        batch_size=16,
        num_steps=800,
        model=model_config("mimo_unet", base_channels=8, num_res_blocks=2),
        data=DataConfig(train="synthetic:pan", length=400, image_size=160, patch_size=64),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        log_every=50,
        checkpoint_every=400,
    )
