"""What a rank tells: to the operator, to Prometheus, and how it measures itself."""
