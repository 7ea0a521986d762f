"""Networks for other programs: StableHLO, and ONNX from the network's own jaxpr."""
