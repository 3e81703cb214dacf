//! Tests of whole parts and of parts together; a file a behaviour.

mod link;
mod link_clients;
mod link_packets;
mod session;
mod session_answers;
mod session_any;
mod session_network;
mod session_notices;
mod session_server;
mod session_takeover;
mod session_talk;
