"""SQL over tables: confined queries in processes of their own, and what reads and changes rows for them."""
