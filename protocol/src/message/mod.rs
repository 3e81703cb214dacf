//! Every message. A family a file; the table at the end of this page is the one place where a type gets
//! its number. An unknown type is kept as [`Message::Unknown`] and skipped by who receives it (SPEC M-1).

pub mod client;
pub mod command;
pub mod content;
pub mod control;
pub mod event;
pub mod handshake;
pub mod inventory;

pub use client::*;
pub use command::*;
pub use content::*;
pub use control::*;
pub use event::*;
pub use handshake::*;
pub use inventory::*;

use crate::wire::{Input, Malformed, Wire};
use bytes::{Bytes, BytesMut};

macro_rules! messages {
    ($($kind:literal $name:ident $doc:literal;)*) => {
        /// A message: the content of one packet.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Message {
            $(#[doc = $doc] $name($name),)*
            /// A type of a later version. Reading gives it only types that are not in [`Message::ALL`]; with
            /// one of those it would be read back as that message.
            Unknown {
                /// Its type.
                kind: u16,
                /// Its body, unread.
                body: Bytes,
            },
        }

        impl Message {
            /// The message's type.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self {
                    $(Message::$name(_) => $kind,)*
                    Message::Unknown { kind, .. } => *kind,
                }
            }

            /// The type's name, for logs and counters.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Message::$name(_) => stringify!($name),)*
                    Message::Unknown { .. } => "Unknown",
                }
            }

            /// Appends the body.
            pub fn put_body(&self, out: &mut BytesMut) {
                match self {
                    $(Message::$name(message) => message.put(out),)*
                    Message::Unknown { body, .. } => out.extend_from_slice(body),
                }
            }

            /// Reads a body. What a later version appended at its end is skipped (SPEC W-4).
            pub fn take_body(kind: u16, body: &[u8]) -> Result<Self, Malformed> {
                Ok(match kind {
                    $($kind => Message::$name(<$name as Wire>::take(&mut Input::new(body))?),)*
                    kind => Message::Unknown { kind, body: Bytes::copy_from_slice(body) },
                })
            }

            /// Type and name of every message that this version knows.
            pub const ALL: &'static [(u16, &'static str)] = &[$(($kind, stringify!($name))),*];
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Message::$name(message)
            }
        })*
    };
}

messages! {
    0x0001 Hello "First packet of a connection: who speaks, which versions.";
    0x0002 Welcome "Answer to `Hello`.";
    0x0003 KeepAlive "Is the other side there?";
    0x0004 KeepAliveAnswer "Answer to `KeepAlive`.";
    0x0005 Goodbye "The sender closes the connection.";
    0x0006 Failure "Answer to any request that was not carried out.";

    0x0101 Query "Asks for the live meetings.";
    0x0102 InventoryPage "Part of the answer to `Query`.";
    0x0103 InventoryEnd "Last packet of an answer to `Query`.";

    0x0111 Attach "Asks for control with a token.";
    0x0112 Attached "Answer to `Attach`.";
    0x0113 Takeover "Asks for control of legs, with proofs.";
    0x0114 TakeoverAnswer "Answer to `Takeover`: a result for each leg.";
    0x0115 Adopt "Gives an orphan a new key (operator's right).";
    0x0116 AdoptAnswer "Answer to `Adopt`.";

    0x0121 Pull "Asks for a leg's records since a revision.";
    0x0122 PullPage "Part of the answer to `Pull`.";
    0x0123 PullEnd "Last packet of an answer to `Pull`.";

    0x0131 Command "Commands a leg, under an intent number.";
    0x0132 CommandAnswer "Answer to `Command`.";

    0x0141 Event "A leg changed or ended.";
    0x0142 EventGap "The server's event queue overflowed.";
    0x0143 EventAck "Events up to a number are stored.";

    0x0201 ClientCommand "A meeting client's command, under its command id.";
    0x0202 ClientAnswer "Answer to `ClientCommand`.";
    0x0203 Get "Asks for a meeting.";
    0x0204 MeetingInfo "First packet of a meeting's state.";
    0x0205 MeetingRecords "Part of a meeting's state.";
    0x0206 MeetingEnd "Last packet of a meeting's state.";
    0x0207 List "Asks for the meetings.";
    0x0208 ListPage "Part of the answer to `List`.";
    0x0209 ListEnd "Last packet of an answer to `List`.";
    0x020A Subscribe "Asks for a snapshot and then events.";
    0x020B Subscribed "Answer to `Subscribe`: the snapshot follows.";
    0x020C ClientEvent "Something changed in a meeting.";
    0x020D Reset "The subscriber was too slow: forget, a snapshot follows.";
}
