"""Mixed precision: what lowering the bits of several layers costs, and which ones to lower."""
