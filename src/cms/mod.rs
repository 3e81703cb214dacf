//! Meeting clients' control messages.
