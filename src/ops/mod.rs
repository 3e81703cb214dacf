//! systemd, operator's socket, status.
