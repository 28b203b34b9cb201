//! Checks that every operation shares.
