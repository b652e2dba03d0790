"""The command line: one file per command. Imports nothing heavy until a command runs."""
