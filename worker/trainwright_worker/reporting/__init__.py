"""Reports to the operator, Prometheus metrics, heartbeats, and the measurements in them."""
