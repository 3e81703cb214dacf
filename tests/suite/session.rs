//! One server's conversation, word by word: handshake, control, queues, repeats, ends.

#![allow(clippy::unwrap_used)]

use crate::session_talk::*;
use remeet::session::{Heard, Misbehaviour, PersistId, Request, RequestError, Settings, Ticket};
use remeet_protocol::message::*;
use remeet_protocol::packet::{Header, VERSION};
use remeet_protocol::*;

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
        header: Header { flags: Flags::FINAL_ANSWER, session: 0, request: 1, index: 0, ..Header::default() },
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

/// Found by the simulation (seed 3927): under another id a start that came late began again what had ended.
#[test]
fn rule_9_a_command_keeps_its_request_id_on_the_next_connection_but_not_under_another_token() {
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
    assert_eq!(new.header.request, old.header.request);
    let answer = command_answer(&command(1, 1));
    talk.answer(&new, answer.clone());
    assert_eq!(talk.heard(), vec![Heard::Commanded(ticket, Ok(answer))]);
    talk.ask(Request::Command(command(1, 2)));
    let next = talk.only();
    assert!(next.header.request > new.header.request, "another intent");
    talk.ask(Request::Attach(token(2)));
    let attach = talk.only();
    talk.answer(&attach, attached());
    talk.heard();
    talk.ask(Request::Command(command(1, 2)));
    assert!(talk.only().header.request > next.header.request, "ids are a token's");
}

#[test]
fn the_same_asked_twice_at_a_time_is_answered_twice() {
    let mut talk = Talk::attached(Settings::default());
    let tickets = [talk.ask(Request::Command(command(1, 1))), talk.ask(Request::Command(command(1, 1)))];
    let requests = talk.sent();
    assert_eq!(requests.len(), 2);
    assert_ne!(requests[0].header.request, requests[1].header.request);
    let answer = command_answer(&command(1, 1));
    for request in &requests {
        talk.answer(request, answer.clone());
    }
    assert_eq!(talk.heard(), tickets.map(|ticket| Heard::Commanded(ticket, Ok(answer.clone()))));
    assert_eq!(talk.session.lengths().in_flight, 0);
}

#[test]
fn what_many_packets_answer_gets_another_request_id_on_the_next_connection() {
    let mut talk = Talk::attached(Settings::default());
    let pull = || Request::Pull { handle: Handle(1), leg: leg(1), since: 0 };
    talk.ask(pull());
    let old = talk.only();
    talk.session.disconnected(talk.now, "cut");
    talk.heard();
    talk.connect();
    talk.attach();
    talk.ask(pull());
    assert!(talk.only().header.request > old.header.request);
    talk.part(&old, 0, false, PullPage { leg: leg(1), changes: vec![change(1)] });
    assert_eq!((talk.heard(), talk.session.counters().stray_answers), (vec![], 1));
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
    assert_eq!(heard.iter().filter(|heard| **heard == Heard::Fenced).count(), 1, "the owner is told, once: {heard:?}");
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
        matches!(
            &heard[..],
            [Heard::Takeover(_, Ok(_)), Heard::Commanded(t, Err(RequestError::Refused(_))), Heard::Fenced] if *t == waiting
        ),
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

/// More commands are asked for than leave at once.
fn commanding() -> (Settings, Talk) {
    let settings = Settings::default();
    let mut talk = Talk::attached(settings.clone());
    for number in 1..=200 {
        talk.ask(Request::Command(command(number, 1)));
    }
    (settings, talk)
}

/// Found by the simulation (seed 1169): their answers were held back behind a gap that only a round's inventory could close.
#[test]
fn an_inventory_leaves_however_many_commands_are_unanswered() {
    let (settings, mut talk) = commanding();
    let sent = talk.sent().len();
    assert!(sent > settings.window / 2 && sent < settings.window, "{sent} commands left");
    talk.ask(Request::Inventory);
    let sent = talk.sent();
    assert!(matches!(sent.as_slice(), [packet] if matches!(packet.message, Message::Query(_))), "{sent:?}");
}

#[test]
fn an_inventory_leaves_when_commands_come_back_from_waiting_out_a_busy() {
    let (settings, mut talk) = commanding();
    let mut refused = 0;
    while refused < settings.parked_max {
        for packet in talk.sent() {
            talk.refuse(&packet, ErrorCode::BUSY, 500);
            refused += 1;
        }
    }
    talk.sent();
    talk.pass_ms(1_000);
    let again = talk.sent();
    assert!(again.iter().all(|packet| matches!(packet.message, Message::Command(_))));
    assert!(talk.session.lengths().in_flight > settings.window, "{} in flight", talk.session.lengths().in_flight);
    talk.ask(Request::Inventory);
    assert!(talk.sent().iter().any(|packet| matches!(packet.message, Message::Query(_))));
}

/// SPEC T-8.
#[test]
fn a_start_below_the_window_is_not_asked_under_another_id_before_its_asker_knows_what_became_of_it() {
    let mut talk = Talk::attached(Settings::default());
    let op = crate::simulator_client::start(Secret::new([1; 16]));
    let start = Command { op, handle: Handle(0), ..command(1, 1) };
    let ticket = talk.ask(Request::Command(start.clone()));
    let first = talk.only();
    talk.refuse(&first, ErrorCode::BELOW_WINDOW, 0);
    let heard = talk.heard();
    let below = |error: &RequestError| matches!(error, RequestError::Refused(failure) if failure.code == ErrorCode::BELOW_WINDOW);
    assert!(
        heard.iter().any(|heard| error_of(heard).is_some_and(|(of, error)| of == ticket && below(error))),
        "{heard:?}"
    );
    assert_eq!(talk.sent(), vec![]);
    talk.ask(Request::Command(start));
    assert!(talk.only().header.request > first.header.request);
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
