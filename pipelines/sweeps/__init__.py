"""Many runs started by one command: job outcomes, and hyperparameter search."""
