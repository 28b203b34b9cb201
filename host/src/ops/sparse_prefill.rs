//! Token-level sparse MLA prefill over bf16 keys.
