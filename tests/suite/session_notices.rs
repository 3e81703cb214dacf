//! What a server says unasked: keep-alives, events, goodbyes; and what it must not say.

#![allow(clippy::unwrap_used)]

use crate::session_talk::*;
use remeet::session::{Heard, Misbehaviour, Request, RequestError, Settings};
use remeet_protocol::message::*;
use remeet_protocol::packet::{Head, Header, VERSION};
use remeet_protocol::wire::{Malformed, Text};
use remeet_protocol::*;
use std::time::Duration;

#[test]
fn an_idle_link_is_kept_alive_and_a_silent_server_is_down() {
    let mut talk = Talk::up(Settings::default());
    let begun = talk.now;
    talk.pass_ms(1_000);
    let probe = talk.session.poll_packet().unwrap();
    assert!(matches!(probe.message, Message::KeepAlive(_)));
    talk.answer(&probe, KeepAliveAnswer { table_revision: 9 });
    assert_eq!(talk.heard(), vec![]);
    talk.pass_ms(5_990);
    assert!(talk.session.is_up());
    talk.pass_ms(20);
    assert!(matches!(&talk.heard()[..], [Heard::Down { reason }] if reason.contains("nothing heard")));
    assert!(talk.session.wants_close().is_some());
    assert!(talk.now.since(begun) < Duration::from_secs(8));
}

#[test]
fn a_server_s_keep_alive_is_answered_with_the_epoch() {
    let mut talk = Talk::attached(Settings::default());
    talk.packet(Header { request: 500, ..Header::default() }, KeepAlive {}.into());
    let answer = talk.only();
    assert_eq!(answer.header.flags, Flags::FINAL_ANSWER);
    assert_eq!((answer.header.request, answer.message), (500, KeepAliveAnswer { table_revision: 1 }.into()));
}

#[test]
fn events_are_heard_in_order_once_and_only_of_the_attached_session() {
    let mut talk = Talk::attached(Settings::default());
    talk.packet(Header { session: SESSION - 1, ..Header::default() }, event(1).into());
    assert_eq!(talk.heard(), vec![], "of an older session");
    for number in [1, 3, 2, 2, 1, 4] {
        talk.notice(event(number));
    }
    let expected: Vec<_> = (1..=4).map(|number| Heard::Event(event(number))).collect();
    assert_eq!(talk.heard(), expected);
    talk.notice(EventGap { first: 5, last: 9 });
    talk.notice(event(10));
    assert_eq!(talk.heard(), vec![Heard::Gap(EventGap { first: 5, last: 9 }), Heard::Event(event(10))]);
    assert_eq!(talk.session.counters().repeated_events, 2);
}

#[test]
fn acknowledgements_cover_many_events_and_are_not_lost_with_a_link() {
    let mut talk = Talk::attached(Settings::default());
    (1..=10).for_each(|number| talk.notice(event(number)));
    talk.heard();
    (1..=9).for_each(|number| talk.session.acknowledge(number));
    assert_eq!(talk.sent(), vec![]);
    talk.pass_ms(20);
    let ack = talk.only();
    assert_eq!((ack.header.session, ack.message), (SESSION, EventAck { number: 9 }.into()));
    talk.session.disconnected(talk.now, "cut");
    talk.heard();
    talk.connect();
    talk.attach();
    assert_eq!(talk.only().message, EventAck { number: 9 }.into(), "the server may not have got it");
    // Not acknowledged before the cut: sent again by the server, not handed up again.
    talk.notice(event(10));
    talk.notice(event(11));
    assert_eq!(talk.heard(), vec![Heard::Event(event(11))]);
}

#[test]
fn an_event_out_of_its_own_order_is_a_breach_and_is_compared() {
    let mut talk = Talk::attached(Settings::default());
    talk.notice(Event { changes: vec![change(9), change(8)], ..event(1) });
    talk.notice(event(2));
    let heard = talk.heard();
    assert!(matches!(heard[0], Heard::Gap(EventGap { first: 1, last: 1 })), "{heard:?}");
    assert!(matches!(heard[1], Heard::Misbehaved { .. }));
    assert!(matches!(heard[2], Heard::Event(_)), "the stream goes on");
}

#[test]
fn unknown_types_are_counted_and_skipped() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Command(command(1, 1)));
    let request = talk.only();
    let unknown = Message::Unknown { kind: 0x0999, body: bytes::Bytes::from_static(b"later") };
    talk.notice(unknown.clone());
    talk.answer(&request, unknown.clone());
    assert_eq!(talk.session.counters().unknown_types, 2);
    assert_eq!((talk.heard(), talk.sent()), (vec![], vec![]));
    talk.answer(&request, command_answer(&command(1, 1)));
    assert_eq!(talk.heard().len(), 1, "the request still waits for its answer");
    talk.packet(Header { request: 12, ..Header::default() }, unknown);
    let answer = talk.only();
    assert!(matches!(&answer.message, Message::Failure(failure) if failure.code == ErrorCode::UNSUPPORTED));
    assert_eq!(answer.header.request, 12);
}

#[test]
fn malformed_packets_are_counted_and_answered_if_they_were_requests() {
    let mut talk = Talk::attached(Settings::default());
    let head = |flags, request| Head {
        destination: Address::scheduler(DomainId(1)),
        source: Address::server(SERVER),
        version: VERSION,
        kind: 0x0141,
        body_bytes: 3,
        header: Header { flags, session: SESSION, request, index: 0, ..Header::default() },
    };
    let rejected = |head| Err(Rejected { head, reason: Malformed::NotUtf8 });
    talk.session.packet(talk.now, rejected(head(Flags::NONE, 8)));
    let answer = talk.only();
    assert!(matches!(&answer.message, Message::Failure(failure) if failure.code == ErrorCode::MALFORMED));
    assert_eq!(answer.header.request, 8);
    talk.session.packet(talk.now, rejected(head(Flags::NONE, 0)));
    assert_eq!(talk.sent(), vec![], "a notice is not answered");
    assert_eq!(talk.heard().len(), 2);
    talk.ask(Request::Command(command(1, 1)));
    let request = talk.only();
    talk.session.packet(talk.now, rejected(head(Flags::FINAL_ANSWER, request.header.request)));
    assert!(matches!(talk.heard()[..], [Heard::Misbehaved { .. }]));
    talk.answer(&request, command_answer(&command(1, 1)));
    assert!(matches!(talk.heard()[..], [Heard::Commanded(_, Ok(_))]), "it counts as lost, no more");
}

#[test]
fn a_request_that_is_not_a_server_s_to_make_is_refused() {
    let mut talk = Talk::up(Settings::default());
    talk.packet(Header { request: 8, ..Header::default() }, Query { cut: 0, after: 0, packets_max: 1 }.into());
    assert!(matches!(&talk.only().message, Message::Failure(failure) if failure.code == ErrorCode::UNSUPPORTED));
    assert!(matches!(talk.heard()[..], [Heard::Misbehaved { .. }]));
}

#[test]
fn too_many_breaches_close_the_link_and_few_over_a_long_time_do_not() {
    let settings = Settings { misbehaviours_max: 3, ..Settings::default() };
    let breach = |talk: &mut Talk| talk.notice(EventGap { first: 5, last: 4 });
    let mut talk = Talk::attached(settings.clone());
    (0..3).for_each(|_| breach(&mut talk));
    assert!(talk.session.wants_close().is_some());
    let mut talk = Talk::attached(settings);
    for _ in 0..5 {
        breach(&mut talk);
        for _ in 0..31 {
            talk.alive();
            talk.pass_ms(1_000);
        }
    }
    assert!(talk.session.is_up());
}

#[test]
fn another_life_of_the_table_within_one_connection_closes_it() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Takeover(vec![claim(1)]));
    let request = talk.only();
    talk.answer(&request, TakeoverAnswer { boot: BootId::from_bytes([9; 16]), ..results(&[1]) });
    let heard = talk.heard();
    assert!(
        matches!(
            &heard[..],
            [Heard::Misbehaved { .. }, Heard::Takeover(_, Err((legs, RequestError::LinkLost))), Heard::Down { .. }]
                if *legs == [leg(1)]
        ),
        "{heard:?}"
    );
}

#[test]
fn bytes_that_are_no_packets_close_the_link() {
    let mut talk = Talk::attached(Settings::default());
    talk.session.broken(talk.now, "wrong CRC");
    assert!(matches!(&talk.heard()[..], [Heard::Misbehaved { reason }, Heard::Down { .. }] if reason.contains("CRC")));
    assert_eq!(talk.session.counters().misbehaviours[&Misbehaviour::Stream], 1);
    talk.session.disconnected(talk.now, "closed");
    assert_eq!(talk.heard(), vec![]);
    talk.connect();
}

#[test]
fn goodbye_is_heard_and_said() {
    let mut talk = Talk::attached(Settings::default());
    talk.notice(Goodbye { code: ErrorCode::BUSY, detail: Text::cut("maintenance"), retry_after_ms: 700 });
    assert!(matches!(&talk.heard()[..], [Heard::Down { reason }] if reason.contains("maintenance")));
    assert_eq!(talk.session.redial_after(), Some(Duration::from_millis(700)));
    let mut talk = Talk::attached(Settings::default());
    talk.session.farewell(talk.now, "stopping");
    assert!(matches!(talk.only().message, Message::Goodbye(_)));
    assert!(talk.session.wants_close().is_some());
}
