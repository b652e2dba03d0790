"""The Cluster port and its adapters: a real API server, or processes on this machine."""
