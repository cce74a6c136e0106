"""Verifiers: exact and symbolic mathematics, and programs in a WebAssembly sandbox."""
