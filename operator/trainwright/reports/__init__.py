"""The HTTPS endpoint that workers report to: authenticate, bound, throttle, hand on."""
