//! Tests of whole parts and of parts together; a file a behaviour.

mod link;
mod session;
mod session_answers;
mod session_network;
mod session_server;
mod session_talk;
