"""What a job needs, found out before a step is taken: shapes, parameters, memory, arithmetic. Trains nothing."""
