//! Tensors, streams and contexts of the CUDA libraries that callers have.

#[cfg(feature = "cust")]
mod cust;
mod interop;
