//! Pure: one server's conversation.
