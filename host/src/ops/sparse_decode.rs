//! Token-level sparse MLA decode over an FP8 cache.
