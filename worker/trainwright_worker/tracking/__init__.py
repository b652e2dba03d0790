"""Records metrics during training for TensorBoard, MLflow and Weights & Biases."""
