"""The agent of a worker pod: meets its peers, forks the ranks, restarts them, says how they ended."""
