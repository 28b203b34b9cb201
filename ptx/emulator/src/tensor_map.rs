//! Tensor maps: which bytes a box of a tensor consists of, and where they go.
