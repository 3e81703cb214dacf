//! What happened, as lines: the last of them for people, and a hash of all for runs that must be equal. They are written
//! only where somebody asks ([`keep`]): a run that failed is run again for them.
//!
//! They stand beside the world, so that a run that ended in a panic can still be read.

use super::Happening;
use super::network::Way;
use bytes::BytesMut;
use remeet::model::Moment;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Lines that are kept: the way to a failure is seldom longer. `REMEET_SIM_TRACE=n` keeps n, and each in full.
const KEPT: usize = 160;
/// Characters that are shown of a line: what a packet says begins with what matters.
const WIDTH: usize = 300;

#[derive(Default)]
struct Trace {
    on: bool,
    lines: VecDeque<(Moment, String)>,
    hasher: DefaultHasher,
    count: u64,
    /// A packet's, on their way into the hash.
    bytes: BytesMut,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Whether the worlds that begin from now on this thread are traced.
pub(super) fn keep(on: bool) {
    TRACE.with_borrow_mut(|trace| trace.on = on);
}

/// Another world begins on this thread.
pub(super) fn begin() {
    TRACE.with_borrow_mut(|trace| *trace = Trace { on: trace.on, ..Trace::default() });
}

fn asked_for() -> Option<usize> {
    std::env::var("REMEET_SIM_TRACE").ok().and_then(|text| text.parse().ok())
}

impl Trace {
    fn note(&mut self, now: Moment, line: String) {
        (now.0, &line).hash(&mut self.hasher);
        self.count += 1;
        if self.lines.len() >= asked_for().unwrap_or(KEPT) {
            self.lines.pop_front();
        }
        self.lines.push_back((now, line));
    }
}

pub(super) fn fault(now: Moment, kind: &'static str) {
    TRACE.with_borrow_mut(|trace| {
        if trace.on {
            trace.note(now, format!("FAULT: {kind}"));
        }
    });
}

pub(super) fn happening(now: Moment, happening: &Happening) {
    TRACE.with_borrow_mut(|trace| {
        if !trace.on {
            return;
        }
        if let Happening::Packet { packet, .. } = happening {
            // Secrets are not written in words, and must be equal all the same.
            trace.bytes.clear();
            packet.write(&mut trace.bytes).expect("it was sent");
            trace.bytes.hash(&mut trace.hasher);
        }
        if let Some(line) = line(happening) {
            trace.note(now, line);
        }
    });
}

/// Nothing for what is of no interest by itself.
fn line(happening: &Happening) -> Option<String> {
    Some(match happening {
        Happening::Packet { server, connection, way, packet } => {
            let arrow = if *way == Way::ToServer { "-->" } else { "<--" };
            let (server, connection, request) = (server.0, connection.0, packet.header.request);
            format!("{arrow} server {server} (connection {connection}, request {request}): {:?}", packet.message)
        }
        Happening::Dial { life, server } => format!("life {life} dials server {server}"),
        Happening::LinkEnded { life, server } => format!("life {life} has lost the link to server {server}"),
        Happening::ServerHangsUp { server, connection } => {
            format!("server {server} sees the end of connection {}", connection.0)
        }
        Happening::LinkBreaks { life, server, reason, .. } => {
            format!("life {life} hears that the link to server {server} has ended: {reason}")
        }
        Happening::EventsAgain { .. } | Happening::Turn { .. } => return None,
        Happening::Wakes { server } => format!("server {server}, which hung, answers again"),
        Happening::Boot { node } => format!("a scheduler starts on node {node}"),
        Happening::LeaseAsked { life, ask, late, .. } => {
            format!("life {life} {} about the lease: {ask:?}", if *late { "asked long ago" } else { "asks" })
        }
        Happening::LeaseAnswered { life, answer } => format!("life {life} hears about its lease: {answer:?}"),
        Happening::Released { token } => format!("a lease is released: {token:?}"),
        Happening::Wake { .. } | Happening::ClientWaited { .. } => return None,
        Happening::Commit { life, batch, .. } => format!("life {life} commits {:?}", batch.units),
        Happening::LateCommit { units, .. } => format!("a late commit: {units:?}"),
        Happening::Settle { life, batch, .. } => format!("life {life} settles {:?}", batch.units),
        Happening::Written { life, outcomes, .. } => format!("life {life} hears what was written: {outcomes:?}"),
        Happening::Unwritten { life, batch, fenced } => {
            let why = if *fenced { "another term stands" } else { "no answer" };
            format!("life {life} hears that nothing was written ({why}): {:?}", batch.units)
        }
        Happening::ReadBegins { life, id, read } => format!("life {life} reads {id:?}: {read:?}"),
        Happening::ReadEnds { life, id, result } => format!("life {life} has read {id:?}: {result:?}"),
        Happening::CacheRun { life, tasks, .. } => format!("life {life} begins cache tasks {tasks:?}"),
        Happening::CacheWritten { life, tasks, .. } => format!("life {life} carries out cache tasks {tasks:?}"),
        Happening::ClientAsks { command } => format!("a client asks: {command:?}"),
        Happening::ClientHears { client, answer, .. } => format!("client {client} hears {answer:?}"),
        Happening::Act(_) => "what was set for now happens (a fault ends)".to_owned(),
    })
}

/// Runs a world; if it fails, once more, for the way to the failure.
pub(super) fn explained(run: impl Fn()) {
    if catch_unwind(AssertUnwindSafe(&run)).is_ok() {
        return;
    }
    keep(true);
    let again = catch_unwind(AssertUnwindSafe(&run));
    keep(false);
    let same =
        if again.is_ok() { "and the second time it did not fail: something depends on more than the seed" } else { "" };
    panic!("what failed above came about so {same}\n{}", shown());
}

/// A hash of everything that happened on this thread's last world, and how much that was.
pub(super) fn hash() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.hasher.finish(), trace.count))
}

/// The last lines, for people.
pub(super) fn shown() -> String {
    let width = if asked_for().is_some() { usize::MAX } else { WIDTH };
    TRACE.with_borrow(|trace| {
        let mut text = format!("the last {} of {} steps:\n", trace.lines.len(), trace.count);
        for (at, line) in &trace.lines {
            let end = line.char_indices().nth(width).map_or(line.len(), |(end, _)| end);
            let more = if end < line.len() { " ..." } else { "" };
            let _ = writeln!(text, "{:>12.6} s  {}{more}", at.0 as f64 / 1e6, &line[..end]);
        }
        text
    })
}
