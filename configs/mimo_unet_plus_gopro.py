"""MIMO-UNet+ on GoPro: the recipe of the paper's official code.

    deblur-jax prepare gopro --manual_dir GOPRO_Large.zip
    python train.py --config configs/mimo_unet_plus_gopro.py --workdir runs/plus
    python evaluate.py --weights runs/plus --protocol gopro

The unpacked folder will do as well: --config.data.train=GOPRO_Large, --data GOPRO_Large.
Hardware: one GPU, or any number that divides the batch of 4. Not run here.
Expected: GoPro test, PSNR 32.45 dB (paper).

3000 epochs of 2103 pairs in batches of 4 are 526 steps an epoch; the rate halves every 500 epochs.
One deviation: two of the 22 training sequences are held out to choose the best checkpoint, where
the official code validates on the test set. ``--config.data.validation_fraction=0`` trains on all
of them, and then the newest checkpoint counts.

For a pod, --config configs/mimo_unet_plus_gopro.py:256 takes batches of 256: the rate, and all
that is counted in steps, follow by the rule of docs/pods.md. Not the paper's recipe, and not run
here.
"""

from deblur_jax import (
    Config,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    model_config,
    scaled_to_batch,
)

STEPS_PER_EPOCH = 526


def get_config(batch_size: str | int = 4) -> Config:
    recipe = Config(
        about="MIMO-UNet+ on GoPro, the paper's recipe",
        batch_size=4,
        num_steps=3000 * STEPS_PER_EPOCH,
        model=model_config("mimo_unet_plus"),
        data=DataConfig(
            train="data/gopro",
            validation_fraction=0.05,
            patch_size=256,
            cache_gib=12.0,  # all of the training set, decoded
        ),
        loss=LossConfig(content_norm="l1", frequency_weight=0.1),
        optimizer=OptimizerConfig(
            learning_rate=1e-4,
            schedule="step",
            decay_factor=0.5,
            decay_every=500 * STEPS_PER_EPOCH,
        ),
        log_every=STEPS_PER_EPOCH,
        checkpoint_every=10 * STEPS_PER_EPOCH,
    )
    return scaled_to_batch(recipe, batch_size)
