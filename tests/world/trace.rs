//! What happened, as short lines: the last of them for people, and a hash of all for runs that must be equal.
//!
//! It stands beside the world, so that a run that ended in a panic can still be read.

use super::Happening;
use super::network::Way;
use bytes::BytesMut;
use remeet::model::Moment;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Lines that are kept: the way to a failure is seldom longer. `REMEET_SIM_TRACE=n` keeps n.
const KEPT: usize = 160;

/// One line.
#[derive(Debug, Clone, Copy, Hash)]
enum Line {
    Packet { server: u32, connection: u64, to_server: bool, name: &'static str, request: u64 },
    Life { what: &'static str, life: u64, count: u64 },
    Plain(&'static str),
    Fault(&'static str),
}

#[derive(Default)]
struct Trace {
    lines: VecDeque<(Moment, Line)>,
    hasher: DefaultHasher,
    count: u64,
    kept: usize,
    /// A packet's, on their way into the hash.
    bytes: BytesMut,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Another world begins on this thread.
pub(super) fn begin() {
    let kept = std::env::var("REMEET_SIM_TRACE").ok().and_then(|text| text.parse().ok()).unwrap_or(KEPT);
    TRACE.with_borrow_mut(|trace| *trace = Trace { kept, ..Trace::default() });
}

fn note(now: Moment, line: Line) {
    TRACE.with_borrow_mut(|trace| {
        (now.0, line).hash(&mut trace.hasher);
        trace.count += 1;
        if trace.lines.len() >= trace.kept {
            trace.lines.pop_front();
        }
        trace.lines.push_back((now, line));
    });
}

pub(super) fn fault(now: Moment, kind: &'static str) {
    note(now, Line::Fault(kind));
}

pub(super) fn happening(now: Moment, happening: &Happening) {
    if let Happening::Packet { packet, .. } = happening {
        // What a packet says is in the hash, though not in what is printed.
        TRACE.with_borrow_mut(|Trace { hasher, bytes, .. }| {
            bytes.clear();
            packet.write(bytes).expect("it was sent");
            bytes.hash(hasher);
        });
    }
    let life = |what, life: &u64, count: usize| Line::Life { what, life: *life, count: count as u64 };
    let line = match happening {
        Happening::Packet { server, connection, way, packet } => Line::Packet {
            server: server.0,
            connection: connection.0,
            to_server: *way == Way::ToServer,
            name: packet.message.name(),
            request: packet.header.request,
        },
        Happening::Dial { life: of, server } => life("dials server", of, server.0 as usize),
        Happening::LinkEnded { life: of, server } => life("has lost the link to server", of, server.0 as usize),
        Happening::ServerHangsUp { .. } => Line::Plain("a server sees the end of a connection"),
        Happening::Wakes { .. } => Line::Plain("a server that hung answers again"),
        Happening::Boot { .. } => Line::Plain("a scheduler starts"),
        Happening::LeaseAsked { life: of, .. } => life("its question about the lease is at the store", of, 0),
        Happening::LeaseAnswered { life: of, .. } => life("hears about its lease", of, 0),
        Happening::Released { .. } => Line::Plain("a lease is released"),
        // Of no interest by itself.
        Happening::Wake { .. } => return,
        Happening::Commit { life: of, batch, .. } => life("commits units", of, batch.units.len()),
        Happening::LateCommit { units, .. } => life("a late commit: units", &0, units.len()),
        Happening::Settle { life: of, batch, .. } => life("settles units", of, batch.units.len()),
        Happening::Written { life: of, outcomes, .. } => life("hears what was written: units", of, outcomes.len()),
        Happening::Unwritten { life: of, batch, .. } => {
            life("hears that nothing was written: units", of, batch.units.len())
        }
        Happening::ReadBegins { life: of, .. } => life("reads", of, 0),
        Happening::ReadEnds { life: of, .. } => life("has read", of, 0),
        Happening::CacheRun { life: of, tasks } => life("begins cache tasks", of, tasks.len()),
        Happening::CacheWritten { life: of, tasks, .. } => life("carries out cache tasks", of, tasks.len()),
        Happening::ClientAsks { .. } => Line::Plain("a client asks"),
        Happening::ClientHears { .. } => Line::Plain("a client hears"),
        Happening::ClientWaited { .. } => return,
        Happening::Act(_) => Line::Plain("a fault ends"),
    };
    note(now, line);
}

/// A hash of everything that happened on this thread's last world, and how much that was.
pub(super) fn hash() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.hasher.finish(), trace.count))
}

/// The last lines, for people.
pub(super) fn shown() -> String {
    TRACE.with_borrow(|trace| {
        let mut text = format!("the last {} of {} steps:\n", trace.lines.len(), trace.count);
        for (at, line) in &trace.lines {
            let _ = write!(text, "{:>12.6} s  ", at.0 as f64 / 1e6);
            let _ = match line {
                Line::Packet { server, connection, to_server, name, request } => {
                    let arrow = if *to_server { "-->" } else { "<--" };
                    writeln!(text, "{arrow} server {server} (connection {connection}): {name}, request {request}")
                }
                Line::Life { what, life, count: 0 } => writeln!(text, "life {life} {what}"),
                Line::Life { what, life, count } => writeln!(text, "life {life} {what} {count}"),
                Line::Plain(what) => writeln!(text, "{what}"),
                Line::Fault(what) => writeln!(text, "FAULT: {what}"),
            };
        }
        text
    })
}
