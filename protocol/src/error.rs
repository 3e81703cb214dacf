//! Stable error codes. Number, name and sentence stand together; a number is never given another meaning.

use crate::wire::{Input, Malformed, Wire};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A code of an answer. `0` is success.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(pub u16);

macro_rules! codes {
    ($($value:literal $name:ident $text:literal $sentence:literal;)*) => {
        impl ErrorCode {
            $(#[doc = $sentence] pub const $name: ErrorCode = ErrorCode($value);)*

            /// Every code that this version knows, with its name and sentence.
            pub const ALL: &'static [(ErrorCode, &'static str, &'static str)] =
                &[$((ErrorCode($value), $text, $sentence)),*];
        }
    };
}

codes! {
    0 OK "ok" "Done.";
    1 MALFORMED "malformed" "The packet's frame is whole but its body cannot be read: mend the sender.";
    2 WRONG_VERSION "wrong version" "No common protocol version: update the older side.";
    3 NOT_ALLOWED "not allowed" "The sender's rights do not cover this: ask the operator.";
    4 UNKNOWN_IDENTITY "unknown identity" "The declared identity is not in the configuration.";
    5 NOT_ATTACHED "not attached" "The request needs an attached session, or a leg taken over by it: attach or take over first.";
    6 STALE_TOKEN "stale token" "A newer token has attached: stop commanding.";
    7 BAD_KEY "bad key" "The proof does not fit the leg's recovery key: read the key from the database.";
    8 UNKNOWN_MEETING "unknown meeting" "No such leg (it ended meanwhile) or meeting is known here.";
    9 BUSY "busy" "Not now: retry after the time given.";
    10 ENDED "ended" "The meeting has ended; its tombstone is kept until the ended event is acknowledged.";
    11 STALE_INTENT "stale intent" "A higher intent number of the leg has been executed: this one never runs.";
    12 BELOW_WINDOW "below window" "The request id is below the session's window: use a new id.";
    13 CUT_GONE "cut gone" "The cut of the inventory or pull is no longer kept: begin anew.";
    14 UNKNOWN_TERMINAL "unknown terminal" "The leg has no such terminal.";
    15 TOO_MANY "too many" "A bound is reached: remove something or wait.";
    16 WRONG_STATE "wrong state" "The meeting's state does not allow this.";
    17 TOO_OLD "too old" "The client command's number is below the kept answers: it never runs.";
    18 RETRY "retry" "The meeting is still being recovered or the queue is full: send it again.";
    19 UNAVAILABLE "unavailable" "The store did not answer in time: send it again.";
    20 UNSUPPORTED "unsupported" "This side does not know the request.";
    21 EXISTS "exists" "It exists already.";
    22 UNREACHABLE "unreachable" "The meeting's server does not answer; the meeting goes on without command.";
    23 INTERNAL "internal" "The answering side failed: its log says why.";
    24 NOT_DURABLE "unknown outcome" "The outcome of storing is not known yet: ask again with the same id.";
    25 PARTLY "partly" "Done on some legs of the meeting: the detail names those that were left; command again, with a new number.";
}

impl ErrorCode {
    /// The code's name, or `unknown code` for a later version's.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(code, ..)| *code == self).map_or("unknown code", |(_, name, _)| name)
    }

    /// What happened and what to do.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        Self::ALL.iter().find(|(code, ..)| *code == self).map_or("A code of a later version.", |(.., text)| text)
    }

    /// Whether the request was carried out.
    #[must_use]
    pub fn is_ok(self) -> bool {
        self == Self::OK
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Wire for ErrorCode {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        u16::take(input).map(Self)
    }
    fn encoded_len(&self) -> usize {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_without_gap_or_double() {
        for (place, (code, ..)) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(usize::from(code.0), place);
        }
    }
}
