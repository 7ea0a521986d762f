"""A first run: a small MIMO-UNet learns to undo one camera motion, on the CPU, in minutes.

    python quickstart.py

The embedded data set's narrowest family, "pan": every picture is blurred by the same motion of the
camera, and the scenes of training, validation and test differ. A network of this size can't learn
more than that in minutes; ``mimo_unet_gopro.py`` is the paper's experiment.
"""

from deblur_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig


def get_config() -> Config:
    return Config(
        about="quickstart",
        batch_size=16,
        num_steps=2000,
        model=ModelConfig(name="mimo_unet", base_channels=8, num_res_blocks=2),
        data=DataConfig(train="synthetic:pan", length=400, picture_size=160, patch_size=64),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        log_every=100,
        checkpoint_every=500,
    )
