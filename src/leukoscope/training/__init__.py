"""From a cohort and a split to a trained network, its scores and its ONNX graph (torch, timm, Fabric)."""
