"""A small MIMO-UNet for photographs: the recipe of the weights that come with the package.

    python train.py --config configs/mimo_unet_photographs.py:DATA --workdir runs/photographs
    python evaluate.py --weights runs/photographs --ema --data DATA/validation

DATA is a folder that ``docs/shipped_weights.md`` says how to make: pairs synthesised from free
photographs, pairs made of footage at 240 frames a second, and a few real pairs of GoPro's training
sequences; and DATA/validation, real pairs that training never sees.
Hardware: two CPU cores, days; a stopped run goes on exactly. Expected: see the log of runs there.

The rate stays high and is halved late, since the moving average does what a decay would: it can be
stopped, evaluated and shipped at any time.
"""

from deblur_jax import Config, DataConfig, LossConfig, OptimizerConfig, model_config


def get_config(data: str = "photographs") -> Config:
    return Config(
        about="a small MIMO-UNet for photographs, of synthesised and real pairs",
        batch_size=8,
        num_steps=120_000,
        model=model_config("mimo_unet", base_channels=16, num_res_blocks=4),
        data=DataConfig(
            train=f"{data}/synthesised=0.7,{data}/frames=0.15,{data}/gopro=0.15",
            validation=f"{data}/validation",
            validation_limit=32,
            patch_size=128,
        ),
        loss=LossConfig(content_norm="l1", frequency_weight=0.1),
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            schedule="step",
            decay_factor=0.5,
            decay_every=30_000,
            warmup_steps=200,
        ),
        ema_decay=0.999,
        log_every=50,
        checkpoint_every=1000,
        max_skipped_steps=10,
    )
