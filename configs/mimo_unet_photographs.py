"""MIMO-UNet of 32 channels and 4 blocks for photographs: the recipe of the weights of the package.

    python train.py --config configs/mimo_unet_photographs.py:DATA --workdir runs/photographs
    python evaluate.py --weights runs/photographs --ema --data DATA/validation

DATA is a folder that ``docs/shipped_weights.md`` says how to make: pairs synthesised from free
photographs, pairs made of footage at 240 frames a second, and a few real pairs of GoPro's training
sequences; and DATA/validation, real pairs that training never sees.
Hardware: one GPU; 40 to 45 steps a second were seen on an H100, in bfloat16 and not deterministic
(``--config.compute.dtype=bfloat16 --config.compute.deterministic=false``).
Expected: see the log of runs there.
"""

from deblur_jax import Config, DataConfig, LossConfig, OptimizerConfig, model_config


def get_config(data: str = "photographs") -> Config:
    return Config(
        about="MIMO-UNet for photographs, of synthesised and real pairs",
        batch_size=8,
        num_steps=60_000,
        model=model_config("mimo_unet", base_channels=32, num_res_blocks=4),
        data=DataConfig(
            train=f"{data}/synthesised=0.6,{data}/smooth=0.15,{data}/frames=0.1,"
            f"sharp:{data}/synthesised=0.06,sharp:{data}/frames=0.09",
            validation=f"{data}/validation",
            validation_limit=32,
            patch_size=256,
        ),
        loss=LossConfig(content_norm="l1", frequency_weight=0.1),
        optimizer=OptimizerConfig(learning_rate=6e-4, schedule="cosine", warmup_steps=300),
        ema_decay=0.999,
        log_every=100,
        checkpoint_every=2000,
        max_skipped_steps=10,
    )
