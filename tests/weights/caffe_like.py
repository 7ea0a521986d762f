"""A caffemodel of a tiny SVRNN, as Caffe writes it."""

import numpy as np
from flax import nnx

from deblur_jax.models import SVRNNConfig, build_model
from deblur_jax.weights.caffe_file import net_parameter
from tests import svrnn_golden

TINY = SVRNNConfig(rnn_channels=4, guidance_channels=4)


def add_layer(net, name, kind, *blobs):
    layer = net.layer.add(name=name.encode(), type=kind.encode())
    for array in blobs:
        blob = layer.blobs.add()
        blob.shape.dim.extend(array.shape)
        blob.data.extend(array.ravel().tolist())


def tiny_net():
    """Layers with and without weights, unused ones in between; and the parameters."""
    params = nnx.state(build_model(TINY, rngs=nnx.Rngs(0)))
    named = svrnn_golden.by_official_name(params)
    net = net_parameter()
    net.name = b"tiny"
    net.layer.add(name=b"input", type=b"Input")
    for name in svrnn_golden.CONVOLUTIONS:
        arrays = (named[f"{name}.weight"], named[f"{name}.bias"])
        add_layer(net, name, "Convolution", *arrays)
    square, row = np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 1, 4))
    add_layer(net, "rnn1_1", "GateRecurrent", square, square, row)
    return net, params
