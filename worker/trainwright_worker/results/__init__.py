"""Results of a finished job: weights, predictions, generated text, exported models, explanations."""
