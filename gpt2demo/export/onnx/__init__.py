"""Export to ONNX: the graphs, the sampler chain inside, and the certificate."""
