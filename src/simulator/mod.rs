//! The simulated autonomous server.
