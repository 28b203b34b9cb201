//! Instructions that compute in one thread: arithmetic, logic, comparison, conversion, moves.
