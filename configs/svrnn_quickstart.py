"""SVRNN's first run: a small one learns to undo one camera motion, on a CPU, in minutes.

    python train.py --config configs/svrnn_quickstart.py --workdir runs/svrnn_quickstart
    python evaluate.py --weights runs/svrnn_quickstart --data synthetic:pan

Hardware: 2 CPU cores, about 5 minutes. Expected: +3.6 to +4.0 dB on held-out photographs (25.81 to
29.81 dB; with other seeds 29.45 to 29.73).

The family of blur is the narrow one of ``quickstart.py``, and the network a fortieth of the
paper's. It restores the image itself, not what to add to it, so half of the time passes until it
can copy one. Gradients are clipped: without that the result depends on the seed (+1.4 to +3.2 dB).
``svrnn_gopro.py`` is the paper's experiment.
"""

from deblur_jax import Config, DataConfig, LossConfig, OptimizerConfig, model_config


def get_config() -> Config:
    return Config(
        about="SVRNN's quickstart: the narrow family synthetic:pan, one motion of the camera. "
        "Next: configs/svrnn_gopro.py",
        batch_size=8,
        num_steps=2000,
        model=model_config("svrnn", rnn_channels=16, guidance_channels=8, resize="half_pixel"),
        data=DataConfig(train="synthetic:pan", length=400, image_size=160, patch_size=64),
        loss=LossConfig(name="squared_error"),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, schedule="cosine", warmup_steps=50, clip_norm=1.0
        ),
        log_every=50,
        checkpoint_every=500,
    )
