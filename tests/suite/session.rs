//! One server's conversation, word by word: handshake, control, queues, repeats, ends, events.

#![allow(clippy::unwrap_used)]

use crate::session_talk::*;
use remeet::session::{Heard, Misbehaviour, PersistId, Request, RequestError, Settings, Ticket};
use remeet_protocol::message::*;
use remeet_protocol::packet::{Head, Header, VERSION};
use remeet_protocol::wire::{Malformed, Text};
use remeet_protocol::*;
use std::time::Duration;

#[test]
fn nothing_leaves_before_the_welcome_and_what_needs_control_waits_for_the_attach() {
    let mut talk = Talk::new(Settings::default());
    talk.session.connected(talk.now);
    let hello = talk.only();
    assert!(matches!(&hello.message, Message::Hello(hello) if hello.role == Role::Scheduler && hello.id == 1));
    talk.ask(Request::Inventory);
    talk.ask(Request::Command(command(1, 1)));
    talk.ask(Request::Attach(token(1)));
    assert_eq!(talk.sent(), vec![]);
    talk.answer(&hello, welcome());
    let sent = talk.sent();
    assert_eq!(sent.iter().map(|packet| packet.message.name()).collect::<Vec<_>>(), ["Query", "Attach"]);
    assert!(sent.iter().all(|packet| packet.header.session == 0));
    talk.answer(&sent[1], attached());
    let command = talk.only();
    assert_eq!(command.message.name(), "Command");
    assert_eq!(command.header.session, SESSION, "the header stands for boot id and token after the attach");
    assert!(command.header.request > sent[1].header.request, "request ids rise");
}

#[test]
fn rule_16_a_server_that_claims_to_be_another_is_refused() {
    let other_address = Packet {
        destination: Address::scheduler(DomainId(1)),
        source: Address::server(ServerId(4)),
        header: Header { flags: Flags::FINAL_ANSWER, session: 0, request: 1, index: 0 },
        message: welcome().into(),
    };
    let claims: [(&str, Packet); 4] = [
        (
            "id",
            Packet {
                source: Address::server(SERVER),
                message: Welcome { id: 4, ..welcome() }.into(),
                ..other_address.clone()
            },
        ),
        (
            "role",
            Packet {
                source: Address::server(SERVER),
                message: Welcome { role: Role::Client, ..welcome() }.into(),
                ..other_address.clone()
            },
        ),
        (
            "version",
            Packet {
                source: Address::server(SERVER),
                message: Welcome { version: VERSION + 1, ..welcome() }.into(),
                ..other_address.clone()
            },
        ),
        ("address", other_address),
    ];
    for (what, packet) in claims {
        let mut talk = Talk::new(Settings::default());
        talk.session.connected(talk.now);
        talk.only();
        talk.session.packet(talk.now, Ok(packet));
        let heard = talk.heard();
        assert!(
            matches!(&heard[..], [Heard::Misbehaved { reason }, Heard::Down { .. }] if reason.contains("claims to be")),
            "{what}: {heard:?}"
        );
        assert!(talk.session.wants_close().is_some(), "{what}");
        assert!(matches!(talk.only().message, Message::Goodbye(_)), "{what}");
        assert_eq!(talk.session.counters().misbehaviours[&Misbehaviour::Identity], 1);
        talk.session.disconnected(talk.now, "closed as asked");
        assert_eq!(talk.heard(), vec![], "down is said once");
    }
}

#[test]
fn rule_16_packets_from_another_address_are_dropped() {
    let mut talk = Talk::attached(Settings::default());
    let packet = Packet {
        destination: Address::scheduler(DomainId(1)),
        source: Address::server(ServerId(4)),
        header: Header { session: SESSION, ..Header::default() },
        message: event(1).into(),
    };
    talk.session.packet(talk.now, Ok(packet));
    assert!(matches!(talk.heard()[..], [Heard::Misbehaved { .. }]));
}

#[test]
fn a_hello_is_repeated_with_its_id_and_given_up_after_the_deadline() {
    let mut talk = Talk::new(Settings::default());
    talk.session.connected(talk.now);
    talk.pass_ms(4_900);
    let hellos = talk.sent();
    assert!(hellos.len() >= 2 && hellos.iter().all(|hello| *hello == hellos[0]), "{hellos:?}");
    talk.pass_ms(100);
    assert!(matches!(talk.heard()[..], [Heard::Down { .. }]));
    assert!(talk.session.wants_close().unwrap().contains("no Welcome"));
}

#[test]
fn a_refused_handshake_is_said_and_closes() {
    let mut talk = Talk::new(Settings::default());
    talk.session.connected(talk.now);
    let hello = talk.only();
    talk.refuse(&hello, ErrorCode::UNKNOWN_IDENTITY, 0);
    assert!(matches!(&talk.heard()[..], [Heard::Down { reason }] if reason.contains("unknown identity")));
}

#[test]
fn rule_persist_then_send_a_request_never_leaves_before_what_it_awaits_is_stored() {
    let mut talk = Talk::attached(Settings::default());
    talk.session.ask(talk.now, Ticket(1), Request::Command(command(1, 1)), Some(PersistId(10)));
    talk.session.ask(talk.now, Ticket(2), Request::Command(command(2, 1)), Some(PersistId(11)));
    talk.session.ask(talk.now, Ticket(3), Request::Command(command(3, 1)), Some(PersistId(12)));
    talk.pass_ms(3_000);
    assert_eq!(talk.sent(), vec![], "nothing is stored");
    talk.session.dropped(PersistId(11));
    talk.session.stored(talk.now, PersistId(11));
    talk.pass_ms(500);
    assert_eq!(talk.sent(), vec![], "what was dropped never leaves, whatever is said later");
    talk.session.stored(talk.now, PersistId(12));
    assert!(matches!(&talk.only().message, Message::Command(c) if c.leg == leg(3)));
    talk.session.disconnected(talk.now, "cut");
    let heard = talk.heard();
    let lost: Vec<_> = heard.iter().filter_map(error_of).collect();
    assert_eq!(lost, [(Ticket(3), &RequestError::LinkLost), (Ticket(1), &RequestError::LinkLost)]);
    talk.connect();
    talk.attach();
    talk.session.stored(talk.now, PersistId(10));
    assert_eq!(talk.sent(), vec![], "its asker was told that it is lost: it does not leave on another link");
}

#[test]
fn rule_persist_then_send_stored_may_come_before_the_request() {
    let mut talk = Talk::attached(Settings::default());
    talk.session.stored(talk.now, PersistId(10));
    talk.session.dropped(PersistId(11));
    talk.session.ask(talk.now, Ticket(1), Request::Command(command(1, 1)), Some(PersistId(10)));
    talk.session.ask(talk.now, Ticket(2), Request::Command(command(2, 1)), Some(PersistId(11)));
    assert!(matches!(&talk.only().message, Message::Command(c) if c.leg == leg(1)));
    assert_eq!(talk.session.lengths().held, 0);
}

#[test]
fn a_request_is_repeated_with_its_id_and_growing_pauses_then_given_up() {
    let mut talk = Talk::attached(Settings::default());
    let ticket = talk.ask(Request::Command(command(1, 1)));
    let first = talk.only();
    let mut at = vec![talk.now];
    while talk.heard().is_empty() {
        assert!(talk.now.0 < 60_000_000, "never given up");
        talk.pass_ms(10);
        // The server is there, it only does not answer this.
        talk.alive();
        for packet in talk.sent() {
            assert_eq!(packet, first, "the same packet under the same id");
            at.push(talk.now);
        }
    }
    assert!((4..=5).contains(&at.len()), "{at:?}");
    assert!(at[2].since(at[1]) > at[1].since(at[0]), "pauses grow: {at:?}");
    assert!(talk.now.0 <= 15_100_000, "within the deadline");
    assert_eq!(talk.session.counters().unanswered, 1);
    talk.answer(&first, command_answer(&command(1, 1)));
    assert_eq!(talk.heard(), vec![], "too late: {ticket:?} has its answer");
    assert_eq!(talk.session.counters().stray_answers, 1);
}

#[test]
fn rule_11_an_answer_that_comes_twice_is_heard_once() {
    let mut talk = Talk::attached(Settings::default());
    let ticket = talk.ask(Request::Command(command(1, 1)));
    let request = talk.only();
    let answer = command_answer(&command(1, 1));
    talk.answer(&request, answer.clone());
    talk.answer(&request, answer.clone());
    assert_eq!(talk.heard(), vec![Heard::Commanded(ticket, Ok(answer))]);
}

#[test]
fn request_ids_are_never_used_again_and_answers_of_an_older_connection_are_ignored() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Command(command(1, 1)));
    let old = talk.only();
    talk.session.disconnected(talk.now, "cut");
    let heard = talk.heard();
    assert!(matches!(heard[..], [Heard::Commanded(_, Err(RequestError::LinkLost)), Heard::Down { .. }]), "{heard:?}");
    talk.connect();
    talk.attach();
    let ticket = talk.ask(Request::Command(command(1, 1)));
    let new = talk.only();
    assert!(new.header.request > old.header.request);
    let answer = command_answer(&command(1, 1));
    talk.answer(&old, answer.clone());
    assert_eq!(talk.heard(), vec![]);
    talk.answer(&new, answer.clone());
    assert_eq!(talk.heard(), vec![Heard::Commanded(ticket, Ok(answer))]);
}

#[test]
fn without_a_link_a_request_is_lost_at_once() {
    let mut talk = Talk::new(Settings::default());
    let ticket = talk.ask(Request::Inventory);
    assert_eq!(talk.heard(), vec![Heard::Inventory(ticket, Err(RequestError::LinkLost))]);
    assert_eq!(talk.session.next_wake(), None);
}

#[test]
fn busy_is_asked_again_after_the_time_given_and_refused_at_the_deadline() {
    let mut talk = Talk::attached(Settings::default());
    let ticket = talk.ask(Request::Command(command(1, 1)));
    let first = talk.only();
    talk.refuse(&first, ErrorCode::BUSY, 2_000);
    assert_eq!(talk.session.lengths().in_flight, 0, "who waits out a busy leaves the window to others");
    talk.pass_ms(1_990);
    assert_eq!(talk.sent(), vec![]);
    talk.pass_ms(1_010);
    assert_eq!(talk.only(), first, "the same packet under the same id");
    talk.refuse(&first, ErrorCode::RETRY, 60_000);
    assert!(
        matches!(&talk.heard()[..], [Heard::Commanded(t, Err(RequestError::Refused(failure)))]
            if *t == ticket && failure.retry_after_ms == 60_000),
        "longer than the deadline: the asker plans anew"
    );
}

#[test]
fn below_the_window_a_request_gets_a_fresh_id() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Command(command(1, 1)));
    let mut sendings = 0;
    let mut last = 0;
    while let [request] = &talk.sent()[..] {
        assert!(request.header.request > last);
        (last, sendings) = (request.header.request, sendings + 1);
        let request = request.clone();
        talk.refuse(&request, ErrorCode::BELOW_WINDOW, 0);
    }
    assert_eq!(sendings, 8, "not for ever");
    assert!(matches!(talk.heard()[..], [Heard::Commanded(_, Err(RequestError::Refused(_)))]));
}

#[test]
fn a_stale_token_refuses_everything_that_needs_control_and_nothing_else() {
    let mut talk = Talk::attached(Settings { window: 2, ..Settings::default() });
    let asked = [
        talk.ask(Request::Takeover(vec![claim(1)])),
        talk.ask(Request::Command(command(2, 1))),
        talk.ask(Request::Pull { handle: Handle(3), leg: leg(3), since: 0 }),
    ];
    talk.session.ask(talk.now, Ticket(99), Request::Command(command(4, 1)), Some(PersistId(1)));
    let inventory = talk.ask(Request::Inventory);
    let sent = talk.sent();
    talk.refuse(&sent[0], ErrorCode::STALE_TOKEN, 0);
    let heard = talk.heard();
    let mut refused: Vec<_> = heard
        .iter()
        .filter_map(error_of)
        .map(|(ticket, error)| {
            assert!(matches!(error, RequestError::Refused(failure) if failure.code == ErrorCode::STALE_TOKEN));
            ticket
        })
        .collect();
    refused.sort();
    assert_eq!(refused, [asked[0], asked[1], asked[2], Ticket(99)]);
    assert_eq!(talk.session.attached(), None);
    assert!(matches!(talk.only().message, Message::Query(_)), "{inventory:?} goes on");
    let late = talk.ask(Request::Command(command(5, 1)));
    assert!(matches!(&talk.heard()[..], [Heard::Commanded(t, Err(RequestError::Refused(_)))] if *t == late));
    talk.ask(Request::Attach(token(2)));
    let request = talk.only();
    talk.answer(&request, attached());
    assert_eq!(talk.session.attached(), Some((SESSION, token(2))));
}

#[test]
fn a_result_that_says_stale_token_refuses_the_rest_as_well() {
    let mut talk = Talk::attached(Settings { window: 1, ..Settings::default() });
    talk.ask(Request::Takeover(vec![claim(1)]));
    let waiting = talk.ask(Request::Command(command(2, 1)));
    let request = talk.only();
    let stale = TakeoverResult { code: ErrorCode::STALE_TOKEN, ..result(1) };
    talk.answer(&request, TakeoverAnswer { results: vec![stale], ..results(&[]) });
    let heard = talk.heard();
    assert!(
        matches!(&heard[..], [Heard::Takeover(_, Ok(_)), Heard::Commanded(t, Err(RequestError::Refused(_)))] if *t == waiting),
        "{heard:?}"
    );
    assert_eq!((talk.session.attached(), talk.sent()), (None, vec![]));
}

#[test]
fn rule_16_a_server_of_another_domain_is_refused_if_one_is_configured() {
    let mut talk = Talk::new(Settings { server_domain: Some(DomainId(8)), ..Settings::default() });
    talk.session.connected(talk.now);
    let hello = talk.only();
    talk.answer(&hello, welcome());
    assert!(
        matches!(&talk.heard()[..], [Heard::Misbehaved { reason }, Heard::Down { .. }] if reason.contains("domain 1"))
    );
}

#[test]
fn an_attach_with_another_token_ends_what_was_asked_under_the_one_before() {
    let mut talk = Talk::attached(Settings { window: 1, ..Settings::default() });
    talk.ask(Request::Command(command(1, 1)));
    talk.ask(Request::Command(command(2, 1)));
    talk.sent();
    talk.ask(Request::Attach(token(2)));
    let heard = talk.heard();
    assert!(matches!(
        heard[..],
        [Heard::Commanded(_, Err(RequestError::LinkLost)), Heard::Commanded(_, Err(RequestError::LinkLost))]
    ));
    assert!(matches!(talk.only().message, Message::Attach(_)));
    talk.ask(Request::Command(command(3, 1)));
    assert_eq!(talk.sent(), vec![], "not before the new attach succeeded");
}

#[test]
fn rule_5_after_losing_control_by_oneself_no_command_leaves() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Command(command(1, 1)));
    talk.session.lose_control();
    talk.ask(Request::Command(command(2, 1)));
    talk.pass_ms(20_000);
    assert_eq!(talk.sent(), vec![]);
    assert_eq!(talk.session.attached(), None);
}

#[test]
fn rule_17_window_and_queues_are_bounded_and_takeovers_pass_pulls() {
    let settings = Settings { pulls_max: 100, ..Settings::default() };
    let mut talk = Talk::attached(settings.clone());
    for handle in 1..=200 {
        talk.ask(Request::Pull { handle: Handle(handle), leg: leg(handle), since: 0 });
    }
    let refused = talk.heard();
    assert_eq!(refused.len(), 200 - 100 - settings.pull_window);
    assert!(refused.iter().all(|heard| {
        matches!(error_of(heard), Some((_, RequestError::Refused(failure))) if failure.code == ErrorCode::RETRY)
    }));
    assert_eq!(talk.sent().len(), settings.pull_window, "pulls use a part of the window");
    talk.ask(Request::Takeover((1..=14 * 40).map(claim).collect()));
    let sent = talk.sent();
    assert_eq!(sent.len(), settings.window - settings.pull_window);
    assert!(sent.iter().all(|packet| matches!(packet.message, Message::Takeover(_))));
    assert_eq!(talk.session.lengths().in_flight, settings.window);
}

#[test]
fn a_request_that_never_gets_control_is_given_up() {
    let mut talk = Talk::up(Settings::default());
    let ticket = talk.ask(Request::Command(command(1, 1)));
    for _ in 0..60 {
        talk.pass_ms(1_000);
        talk.alive();
    }
    assert_eq!(talk.heard(), vec![Heard::Commanded(ticket, Err(RequestError::NoAnswer))]);
}

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
        header: Header { flags, session: SESSION, request, index: 0 },
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
    assert_broken(&talk.heard(), "a malformed answer");
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
