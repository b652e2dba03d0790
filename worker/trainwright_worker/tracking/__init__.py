"""The course of training, recorded for TensorBoard, MLflow and Weights & Biases."""
