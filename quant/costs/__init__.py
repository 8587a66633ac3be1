"""What a layer costs, one cost model a file: (Work, weight bits, act bits) -> a number."""
