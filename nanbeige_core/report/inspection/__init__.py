"""What is inside a data artifact: counts, histograms, reasons and examples, computed from its files on demand."""
