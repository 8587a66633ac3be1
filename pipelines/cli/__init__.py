"""What a user types: settings and their types, names of runs, and the secrets that are kept out."""
