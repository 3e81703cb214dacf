//! Meeting clients' control messages.

pub mod client;
