//! Whatever a server sends and whatever is called, in whatever order: nothing breaks on this side.

#![allow(clippy::unwrap_used, clippy::manual_is_multiple_of)]

use crate::session_talk::*;
use proptest::prelude::*;
use remeet::session::{Heard, PersistId, Request, Settings, Ticket};
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::*;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that may happen to a session: what, and two numbers that say which.
type Act = (u8, u8, u8);

/// A message of a server, right or wrong: every type, with numbers that come near what is open.
fn message(a: u8, b: u8) -> Message {
    let handles: Vec<u64> = (0..u64::from(b % 4)).map(|n| u64::from(a % 8) + n).collect();
    let number = u64::from(b % 16);
    match a % 18 {
        0 => welcome().into(),
        1 => Welcome { keep_alive_ms: u32::from(b), ..welcome() }.into(),
        2 => Failure { retry_after_ms: u32::from(b), ..Failure::new(ErrorCode(u16::from(b % 26)), "x") }.into(),
        3 => InventoryPage { cut: number, entries: handles.iter().map(|handle| entry(*handle)).collect() }.into(),
        4 => InventoryEnd {
            cut: number,
            table_revision: 9,
            boot: boot(),
            after: number,
            page_entries: u32::from(b % 4),
            complete: b % 2 == 0,
            total: u64::from(b % 8),
        }
        .into(),
        5 => Attached { session: u64::from(b % 3) + SESSION - 1, ..attached() }.into(),
        6 => results(&handles).into(),
        7 => PullPage { leg: leg(1), changes: handles.iter().map(|n| change(*n)).collect() }.into(),
        8 => PullEnd {
            leg: leg(u64::from(b % 2)),
            full: b % 3 == 0,
            upto: remeet_protocol::record::Mark { revision: number, ..Default::default() },
            after: number,
            page_changes: u32::from(b % 4),
            complete: b % 2 == 0,
        }
        .into(),
        9 => command_answer(&command(u64::from(b % 4), u64::from(b % 3))).into(),
        10 | 11 => event(number).into(),
        12 => EventGap { first: number, last: u64::from(b) / 4 }.into(),
        13 => EventGap { first: u64::MAX - number, last: u64::MAX }.into(),
        14 => KeepAlive {}.into(),
        15 => Message::Unknown { kind: 0x0777, body: bytes::Bytes::new() },
        16 if b % 16 == 0 => Goodbye { code: ErrorCode::OK, detail: Default::default(), retry_after_ms: 5 }.into(),
        16 => KeepAliveAnswer { table_revision: 1 }.into(),
        _ if b % 16 == 0 => Attached { boot: BootId::from_bytes([9; 16]), ..attached() }.into(),
        _ => Query { cut: 0, after: 0, packets_max: 1 }.into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: no panic, no timer that is due for ever, and every request is
    /// answered once, by the time the link is down at the latest, unless what it awaited was dropped.
    #[test]
    fn any_sequence_of_packets_and_calls_leaves_no_request_unanswered_or_answered_twice(
        acts in prop::collection::vec(any::<Act>(), 0..400)
    ) {
        let stream = acts.len() % 2 == 0;
        let mut talk = Talk::new(Settings { stream, window: 4, pull_window: 2, held_max: 4, commands_max: 4, ..Settings::default() });
        let mut open: BTreeMap<Ticket, usize> = BTreeMap::new();
        let mut tickets = 0;
        let mut dropped: BTreeSet<PersistId> = BTreeSet::new();
        let mut awaiting: BTreeMap<Ticket, PersistId> = BTreeMap::new();
        let mut requests: Vec<u64> = Vec::new();
        for (kind, a, b) in acts {
            match kind % 16 {
                0 => talk.session.connected(talk.now),
                1 if b % 8 == 0 => talk.session.disconnected(talk.now, "cut"),
                2 if b % 16 == 0 => talk.session.broken(talk.now, "wrong CRC"),
                3 => talk.pass_ms(u64::from(a) * 8),
                4 => talk.session.stored(talk.now, PersistId(u64::from(a % 8))),
                5 => {
                    dropped.insert(PersistId(u64::from(a % 8)));
                    talk.session.dropped(PersistId(u64::from(a % 8)));
                }
                6 => talk.session.acknowledge(u64::from(a)),
                7 if b % 16 == 0 => talk.session.lose_control(),
                7..=9 => {
                    let request = match a % 6 {
                        0 => Request::Inventory,
                        1 => Request::Attach(token(1 + u64::from(b % 16 == 0))),
                        2 => Request::Takeover((1..=u64::from(b % 20)).map(claim).collect()),
                        3 => Request::Pull { handle: Handle(1), leg: leg(1), since: u64::from(b % 4) },
                        4 => Request::Command(command(u64::from(b % 4), u64::from(b % 3))),
                        _ => Request::Command(command(1, 1)),
                    };
                    tickets += 1;
                    let ticket = Ticket(tickets);
                    let answers = if let Request::Takeover(claims) = &request { claims.len() } else { 1 };
                    if answers > 0 {
                        open.insert(ticket, answers);
                    }
                    let after = (b % 3 == 0).then_some(PersistId(u64::from(b % 8)));
                    awaiting.extend(after.map(|id| (ticket, id)));
                    talk.session.ask(talk.now, ticket, request, after);
                }
                _ => {
                    let request = requests.get(usize::from(b) % requests.len().max(1)).copied().unwrap_or(0);
                    let flags = Flags(if kind % 4 == 0 { 0 } else { kind & 3 });
                    let session = if b % 8 == 0 { 1 } else { SESSION };
                    let header = Header { flags, session, request, index: u32::from(b % 3), ..Header::default() };
                    talk.packet(header, message(a, b));
                }
            }
            for packet in talk.sent() {
                requests.push(packet.header.request);
            }
            for heard in talk.heard() {
                let (ticket, answers) = match &heard {
                    Heard::Takeover(ticket, Ok(results)) => (*ticket, results.results.len()),
                    Heard::Takeover(ticket, Err((legs, _))) => (*ticket, legs.len()),
                    Heard::Pulled(_, Ok(page)) if page.complete.is_none() => continue,
                    Heard::Inventory(ticket, _) | Heard::Attached(ticket, _) | Heard::Pulled(ticket, _)
                    | Heard::Commanded(ticket, _) | Heard::Adopted(ticket, _) => (*ticket, 1),
                    _ => continue,
                };
                let left = open.get_mut(&ticket).unwrap_or_else(|| panic!("{heard:?} answers twice"));
                prop_assert!(*left >= answers, "{:?} answers more than was asked", heard);
                *left -= answers;
                if *left == 0 {
                    open.remove(&ticket);
                }
            }
        }
        talk.session.disconnected(talk.now, "the end");
        for heard in talk.heard() {
            match &heard {
                Heard::Takeover(ticket, Err((legs, _))) => *open.get_mut(ticket).unwrap() -= legs.len(),
                other => {
                    if let Some((ticket, _)) = error_of(other) {
                        prop_assert!(open.remove(&ticket).is_some(), "{:?} answers twice", heard);
                    }
                }
            }
        }
        open.retain(|ticket, left| *left > 0 && awaiting.get(ticket).is_none_or(|id| !dropped.contains(id)));
        prop_assert_eq!(open, BTreeMap::new());
        prop_assert_eq!(talk.session.next_wake(), None);
    }
}
