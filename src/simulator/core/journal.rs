//! What a server writes down, and how it comes back: a snapshot followed by a journal, both made of
//! [`Entry`]s. Each entry is a length (u32), a CRC-32 (u32) and a body in the protocol's own encoding.
//!
//! The driver writes the bytes of [`Journal::take`] before it sends what the same step answered, so
//! everything that anybody was told survives the end of the process; an attach is also synced to the
//! disk. An entry that was cut in the writing ends the journal: nobody was answered for it.

use super::events::{Gap, Queued};
use super::leg::LegHead;
use bytes::{BufMut, Bytes, BytesMut};
use remeet_protocol::message::{CommandAnswer, Event};
use remeet_protocol::record::Change;
use remeet_protocol::wire::{Input, Malformed, Wire};
use remeet_protocol::{BootId, Handle, LegId, Secret, ServerId, Token};

/// One step of a server's life, or one part of a snapshot.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Snapshot: the counters. Always the first entry.
    Table(TableHead),
    /// Snapshot: a leg; its records follow.
    Leg(LegHead),
    /// Snapshot: a record or a removal of a leg.
    Record(Handle, Change),
    /// Snapshot: an unacknowledged event or gap.
    Queued(Queued),
    /// A request id of the attached token was seen (also in snapshots).
    Seen(u64),
    /// A token attached (also in snapshots).
    Attached(Token),
    /// A leg appeared.
    Appeared(LegHead),
    /// A leg changed or ended, and an event with the next number says so.
    Changed(Event),
    /// Legs were taken over.
    Taken(Token, Vec<Handle>),
    /// A leg was adopted.
    Adopted(Adoption),
    /// A command was carried out, or refused by its content.
    Done(CommandAnswer),
    /// Events were acknowledged.
    Acknowledged(u64),
    /// The removals of every leg were forgotten.
    RemovalsDropped,
    /// The events behind the first so many were lost.
    Overflowed(u64),
}

/// The counters of a server.
#[derive(Debug, Clone, Copy)]
pub struct TableHead {
    /// Whose state it is.
    pub server: ServerId,
    /// The life of the table.
    pub boot: BootId,
    /// The table's revision.
    pub revision: u64,
    /// The next leg's handle.
    pub next_handle: Handle,
    /// The next event's number.
    pub next_event: u64,
    /// Restarts so far: part of session numbers, so that none comes twice.
    pub restarts: u32,
}

/// What an adoption changed.
#[derive(Debug, Clone)]
pub struct Adoption {
    /// The leg.
    pub handle: Handle,
    /// Its name from now on.
    pub id: LegId,
    /// Its new secret.
    pub secret: Secret,
    /// The new key's generation.
    pub generation: u64,
    /// Who commands it.
    pub token: Token,
}

/// The entries of one step, encoded.
#[derive(Debug, Default)]
pub struct Journal {
    bytes: BytesMut,
    sync: bool,
    muted: bool,
}

impl Journal {
    /// Notes an entry.
    pub fn note(&mut self, entry: &Entry) {
        if !self.muted {
            self.sync |= matches!(entry, Entry::Attached(_));
            append(entry, &mut self.bytes);
        }
    }

    /// While a journal is read back nothing is noted; nor by a server that keeps no state.
    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// The bytes since the last call, and whether they must reach the disk before anything is answered.
    pub fn take(&mut self) -> (Bytes, bool) {
        (self.bytes.split().freeze(), std::mem::take(&mut self.sync))
    }
}

/// Appends an entry with its length and CRC.
pub fn append(entry: &Entry, out: &mut BytesMut) {
    let at = out.len();
    out.put_u64(0);
    put(entry, out);
    // An entry holds a packet's content, or a gap with a table's tombstones: far below 4 GiB.
    let length = u32::try_from(out.len() - at - 8).unwrap_or(u32::MAX);
    let crc = crc32fast::hash(&out[at + 8..]);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    out[at + 4..at + 8].copy_from_slice(&crc.to_be_bytes());
}

/// Why entries could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Bytes in the midst were changed.
    #[error("the entry at byte {at} is damaged: restore the file from a copy, or begin without it")]
    Damaged {
        /// Where the entry begins.
        at: usize,
    },
    /// An entry is whole but cannot be read: the file is another program's or another version's.
    #[error("the entry at byte {at} was written by another version: {source}")]
    Unreadable {
        /// Where the entry begins.
        at: usize,
        /// Why not.
        source: Malformed,
    },
}

/// Reads entries until the end, or until one that was cut in the writing.
///
/// # Errors
/// An entry is whole but damaged or of another version.
pub fn read(bytes: &[u8], mut each: impl FnMut(Entry)) -> Result<(), ReadError> {
    let mut at = 0;
    loop {
        let mut input = Input::new(&bytes[at..]);
        let (Ok(length), Ok(crc)) = (u32::take(&mut input), u32::take(&mut input)) else { return Ok(()) };
        // No entry is empty: zeros are what a file system may leave of an append that the machine lost.
        let Ok(body) = input.bytes(length as usize, "entry") else { return Ok(()) };
        if body.is_empty() {
            return Ok(());
        }
        if crc32fast::hash(body) != crc {
            return Err(ReadError::Damaged { at });
        }
        each(take(&mut Input::new(body)).map_err(|source| ReadError::Unreadable { at, source })?);
        at += 8 + body.len();
    }
}

fn put(entry: &Entry, out: &mut BytesMut) {
    match entry {
        Entry::Table(head) => {
            out.put_u8(1);
            head.server.put(out);
            head.boot.put(out);
            head.revision.put(out);
            head.next_handle.put(out);
            head.next_event.put(out);
            head.restarts.put(out);
        }
        Entry::Leg(head) => put_head(2, head, out),
        Entry::Record(handle, change) => {
            out.put_u8(3);
            handle.put(out);
            change.put(out);
        }
        Entry::Queued(Queued::Event(event)) => {
            out.put_u8(4);
            event.put(out);
        }
        Entry::Queued(Queued::Gap(gap)) => {
            out.put_u8(5);
            gap.first.put(out);
            gap.last.put(out);
            out.put_u32(u32::try_from(gap.tombstones.len()).unwrap_or(u32::MAX));
            gap.tombstones.iter().for_each(|(number, handle)| {
                number.put(out);
                handle.put(out);
            });
        }
        Entry::Seen(request) => {
            out.put_u8(6);
            request.put(out);
        }
        Entry::Attached(token) => {
            out.put_u8(7);
            token.put(out);
        }
        Entry::Appeared(head) => put_head(8, head, out),
        Entry::Changed(event) => {
            out.put_u8(9);
            event.put(out);
        }
        Entry::Taken(token, handles) => {
            out.put_u8(10);
            token.put(out);
            handles.put(out);
        }
        Entry::Adopted(adoption) => {
            out.put_u8(11);
            adoption.handle.put(out);
            adoption.id.put(out);
            adoption.secret.put(out);
            adoption.generation.put(out);
            adoption.token.put(out);
        }
        Entry::Done(answer) => {
            out.put_u8(12);
            answer.put(out);
        }
        Entry::Acknowledged(number) => {
            out.put_u8(13);
            number.put(out);
        }
        Entry::RemovalsDropped => out.put_u8(14),
        Entry::Overflowed(kept) => {
            out.put_u8(15);
            kept.put(out);
        }
    }
}

fn take(input: &mut Input<'_>) -> Result<Entry, Malformed> {
    Ok(match u8::take(input)? {
        1 => Entry::Table(TableHead {
            server: Wire::take(input)?,
            boot: Wire::take(input)?,
            revision: Wire::take(input)?,
            next_handle: Wire::take(input)?,
            next_event: Wire::take(input)?,
            restarts: Wire::take(input)?,
        }),
        2 => Entry::Leg(take_head(input)?),
        3 => Entry::Record(Wire::take(input)?, Wire::take(input)?),
        4 => Entry::Queued(Queued::Event(Box::new(Event::take(input)?))),
        5 => Entry::Queued(Queued::Gap(take_gap(input)?)),
        6 => Entry::Seen(Wire::take(input)?),
        7 => Entry::Attached(Wire::take(input)?),
        8 => Entry::Appeared(take_head(input)?),
        9 => Entry::Changed(Wire::take(input)?),
        10 => Entry::Taken(Wire::take(input)?, Wire::take(input)?),
        11 => Entry::Adopted(Adoption {
            handle: Wire::take(input)?,
            id: Wire::take(input)?,
            secret: Wire::take(input)?,
            generation: Wire::take(input)?,
            token: Wire::take(input)?,
        }),
        12 => Entry::Done(Wire::take(input)?),
        13 => Entry::Acknowledged(Wire::take(input)?),
        14 => Entry::RemovalsDropped,
        15 => Entry::Overflowed(Wire::take(input)?),
        kind => return Err(Malformed::Value { field: "journal entry", value: kind.into() }),
    })
}

fn take_gap(input: &mut Input<'_>) -> Result<Gap, Malformed> {
    let (first, last) = (Wire::take(input)?, Wire::take(input)?);
    let count = u32::take(input)?;
    let tombstone = |_| Ok((u64::take(input)?, Handle::take(input)?));
    Ok(Gap { first, last, tombstones: (0..count).map(tombstone).collect::<Result<_, Malformed>>()? })
}

fn put_head(kind: u8, head: &LegHead, out: &mut BytesMut) {
    out.put_u8(kind);
    head.id.put(out);
    head.handle.put(out);
    head.secret.put(out);
    head.generation.put(out);
    head.token.put(out);
    head.mark.put(out);
    head.ended.put(out);
    head.intent.put(out);
    head.kept.put(out);
    head.last_event.put(out);
    head.floor.put(out);
}

fn take_head(input: &mut Input<'_>) -> Result<LegHead, Malformed> {
    Ok(LegHead {
        id: Wire::take(input)?,
        handle: Wire::take(input)?,
        secret: Wire::take(input)?,
        generation: Wire::take(input)?,
        token: Wire::take(input)?,
        mark: Wire::take(input)?,
        ended: Wire::take(input)?,
        intent: Wire::take(input)?,
        kept: Wire::take(input)?,
        last_event: Wire::take(input)?,
        floor: Wire::take(input)?,
    })
}
