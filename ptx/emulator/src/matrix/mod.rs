//! Matrix instructions as functions of values: shapes, descriptors, fragments.
