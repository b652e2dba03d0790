"""The HTTPS endpoint that receives the workers' reports: authenticates, limits and forwards them."""
