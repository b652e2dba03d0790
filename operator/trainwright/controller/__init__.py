"""The loop: events -> keyed queue -> observe -> plan -> apply. Nothing is decided here."""
