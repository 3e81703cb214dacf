//! The mission end to end.
