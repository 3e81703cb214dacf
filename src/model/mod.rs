//! The words of the design as types.
