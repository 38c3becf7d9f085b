"""Export to ONNX: the graphs, the sampler chain in the graph, and the certificate."""
