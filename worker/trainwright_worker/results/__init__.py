"""What a finished job leaves behind: weights, predictions, generated text, exported models, explanations."""
