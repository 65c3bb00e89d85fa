"""Float64 references, written from the papers' formulas in numpy: one file for each operation."""
