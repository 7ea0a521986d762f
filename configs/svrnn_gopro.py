r"""SVRNN on GoPro: the recipe of the paper's official code.

    deblur-jax prepare gopro --manual_dir GOPRO_Large.zip
    python train.py --config configs/svrnn_gopro.py --workdir runs/svrnn
    python evaluate.py --weights runs/svrnn --protocol gopro

The unpacked folder will do as well: --config.data.train=GOPRO_Large, --data GOPRO_Large.
Hardware: one GPU, or any number that divides the batch of 20. Not run here.
Expected: GoPro test, PSNR 29.19 dB and SSIM 0.931 (paper).

Differences from the official training: patches are cut at random from `blur`; whole epochs are
drawn without repetition; sequences are held out of training to choose the best checkpoint. The
official patches were cut beforehand and augmented (turned, mirrored, rescaled by 0.9 to 1.1, their
colours permuted), 125 or more a frame, and seem to come from `blur_gamma`. For that:

    deblur-jax prepare gopro data/gopro_patches --manual_dir GOPRO_Large.zip \
        --blurred blur_gamma --patch_size 128 --patches_per_image 125 --augment
    python train.py --config configs/svrnn_gopro.py --config.data.train=data/gopro_patches ...

The paper's own start of the weight generator, VGG-16 trained on ImageNet (the official code starts
at random):

    deblur-jax convert vgg16.pth weights/vgg16 --model vgg16
    python train.py --config configs/svrnn_gopro.py --config.init_from=weights/vgg16 ...

For a pod, --config configs/svrnn_gopro.py:256 takes batches of 256: the rate, and all that is
counted in steps, follow by the rule of docs/pods.md. Not the paper's recipe, and not run here.
"""

from deblur_jax import (
    Config,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    model_config,
    scaled_to_batch,
)


def get_config(batch_size: str | int = 20) -> Config:
    recipe = Config(
        about="SVRNN on GoPro, the official code's recipe",
        batch_size=20,
        num_steps=200_000,
        model=model_config("svrnn"),
        data=DataConfig(
            train="data/gopro",
            validation_fraction=0.05,
            patch_size=128,
            cache_gib=12.0,  # all of the training set, decoded
        ),
        loss=LossConfig(name="squared_error"),
        optimizer=OptimizerConfig(
            name="caffe_adam",
            learning_rate=1e-4,
            schedule="polynomial",
            clip_norm=5000.0,
            weight_decay=1e-6,
            bias_rate=2.0,
            first_iteration=1,
        ),
        log_every=100,
        checkpoint_every=2000,
    )
    return scaled_to_batch(recipe, batch_size)
