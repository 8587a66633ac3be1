"""The store: results computed once, looked up by their inputs, resumed, collected."""
