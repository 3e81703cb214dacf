//! Who may command a simulated server: tokens, sessions, proofs, adoption.

#![allow(clippy::unwrap_used)]

use crate::simulator_client::*;
use remeet::simulator::{Options, Request, RestartMode};
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::*;

#[tokio::test]
async fn rule_2_an_older_token_is_refused_everything_and_told_the_newer_one() {
    let server = simulator().await;
    let mut old = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = old.meeting(1, 1).await;
    let mut new = Scheduler::attached(server.address, token(2, 2)).await;

    let command = Command { leg: leg(1), handle, intent: 9, op: add(9) };
    let claim = old.claim(leg(1), handle, &secret(1));
    let pull = Pull { handle, leg: leg(1), since: 0, upto: 0, after: 0, full: false, packets_max: 1 };
    let requests: Vec<Message> = vec![command.into(), Takeover { claims: vec![claim] }.into(), pull.into()];
    for request in requests {
        let failure = old.failure(request).await;
        assert_eq!((failure.code, failure.token), (ErrorCode::STALE_TOKEN, token(2, 2)));
    }
    for refused in [token(1, 1), token(2, 1), token(0, 2)] {
        let failure = Scheduler::connect(server.address).await.attach(refused).await.unwrap_err();
        assert_eq!((failure.code, failure.token), (ErrorCode::STALE_TOKEN, token(2, 2)), "{refused}");
    }
    // Nor does the old session get an event any more.
    server.control(Request::EndLeg { meeting: leg(1).meeting, leg: 0 }).await.unwrap();
    assert_eq!(new.event().await.ended, EndCause::ByServer);
    old.one(KeepAlive {}).await;
    assert!(old.notices.is_empty());

    let stats = server.stats();
    assert_eq!((stats.stale_executed, stats.stale_refused), (0, 6));
}

#[tokio::test]
async fn rule_2_what_has_attached_survives_every_restart() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { state: Some(folder.path().join("state")), ..Options::default() };
    let server = simulator_with(options.clone()).await;
    Scheduler::attached(server.address, token(5, 5)).await;
    for mode in [RestartMode::SameBoot, RestartMode::NewBoot] {
        server.control(Request::Restart { mode, down_ms: 0 }).await.unwrap();
        let failure = Scheduler::connect(server.address).await.attach(token(4, 4)).await.unwrap_err();
        assert_eq!((failure.code, failure.token), (ErrorCode::STALE_TOKEN, token(5, 5)), "{mode:?}");
    }
    server.stop().await.unwrap();
    for new_boot in [false, true] {
        let server = simulator_with(Options { new_boot, ..options.clone() }).await;
        assert!(Scheduler::connect(server.address).await.attach(token(4, 4)).await.is_err());
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn rule_3_a_leg_obeys_only_who_started_it_or_took_it_over_last() {
    let server = simulator().await;
    let mut first = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = first.meeting(1, 1).await;
    let mut second = Scheduler::attached(server.address, token(2, 2)).await;
    assert_eq!(second.command(leg(1), 5, add(2)).await.code, ErrorCode::NOT_ATTACHED);
    // Nor does a start that repeats the first one's key give command (SPEC C-4), or say that it does.
    assert_eq!(second.command(leg(1), 1, start(secret(1))).await.code, ErrorCode::NOT_ATTACHED);
    assert_eq!(second.command(leg(1), 5, add(2)).await.code, ErrorCode::NOT_ATTACHED);

    let result = second.take_over_one(leg(1), handle, &secret(1)).await;
    assert_eq!((result.code, result.intent), (ErrorCode::OK, 2), "the last intent executed comes with it");
    assert_eq!(result.mark, server.dump().legs[0].mark);
    let answer = second.command(leg(1), 2, add(1)).await;
    assert_eq!((answer.code, answer.handle), (ErrorCode::OK, handle), "the answer is kept over the takeover");
    assert_eq!(second.command(leg(1), 5, add(2)).await.code, ErrorCode::OK);
    assert_eq!(server.dump().legs[0].token, token(2, 2));
    assert_eq!(server.stats().stale_executed, 0);
}

#[tokio::test]
async fn a_session_is_needed_and_belongs_to_one_token() {
    let server = simulator().await;
    let mut scheduler = Scheduler::connect(server.address).await;
    for session in [0, 77] {
        scheduler.session = session;
        let failure = scheduler.failure(Takeover { claims: Vec::new() }).await;
        assert_eq!(failure.code, ErrorCode::NOT_ATTACHED);
    }
    let session = scheduler.attach(token(1, 1)).await.unwrap().session;
    assert_eq!(scheduler.attach(token(1, 1)).await.unwrap().session, session, "the same token, the same session");
    // It is not bound to its connection.
    let mut other = Scheduler::connect(server.address).await;
    (other.session, other.request) = (session, 100);
    assert_eq!(other.command(leg(1), 1, start(secret(1))).await.code, ErrorCode::OK);
    assert_ne!(scheduler.attach(token(2, 1)).await.unwrap().session, session);
}

/// Found by the simulation (seed 634).
#[tokio::test]
async fn a_late_attach_of_an_earlier_connection_does_not_draw_the_events_there() {
    let server = simulator().await;
    let mut earlier = Scheduler::connect(server.address).await;
    let mut scheduler = Scheduler::connect(server.address).await;
    (earlier.request, scheduler.request) = (10, 20);
    scheduler.attach(token(1, 1)).await.unwrap();
    earlier.attach(token(1, 1)).await.unwrap();
    scheduler.meeting(1, 1).await;
    server.control(Request::EndLeg { meeting: leg(1).meeting, leg: 0 }).await.unwrap();
    assert_eq!(scheduler.event().await.ended, EndCause::ByServer);
    assert!(earlier.notices.is_empty());
}

#[tokio::test]
async fn a_takeover_is_proven_for_this_leg_server_life_and_token_only() {
    let server = simulator().await;
    let mut first = Scheduler::attached(server.address, token(1, 1)).await;
    let handles = [first.meeting(1, 1).await, first.meeting(2, 1).await, first.meeting(3, 0).await];
    first.command(leg(3), 9, Op::End(End { cause: EndCause::Commanded })).await;

    let mut second = Scheduler::attached(server.address, token(2, 2)).await;
    let good = second.claim(leg(1), handles[0], &secret(1));
    let mut old_token = good.clone();
    old_token.proof = first.claim(leg(1), handles[0], &secret(1)).proof;
    let mut other_leg = good.clone();
    other_leg.proof = second.claim(leg(2), handles[1], &secret(1)).proof;
    let mut other_boot = good.clone();
    let boot = std::mem::take(&mut second.boot);
    other_boot.proof = second.claim(leg(1), handles[0], &secret(1)).proof;
    second.boot = boot;
    let claims = vec![
        old_token,
        other_leg,
        other_boot,
        second.claim(leg(1), handles[0], &secret(2)),
        second.claim(leg(1), handles[1], &secret(1)),
        second.claim(leg(9), Handle(99), &secret(1)),
        second.claim(leg(3), handles[2], &secret(1)),
        second.claim(leg(2), handles[1], &secret(1)),
        good,
    ];
    let codes: Vec<_> = second.take_over(claims).await.iter().map(|result| result.code).collect();
    use ErrorCode as E;
    let expected = [
        E::BAD_KEY,
        E::BAD_KEY,
        E::BAD_KEY,
        E::BAD_KEY,
        E::UNKNOWN_MEETING,
        E::UNKNOWN_MEETING,
        E::ENDED,
        E::OK,
        E::OK,
    ];
    assert_eq!(codes, expected);
    let stats = server.stats();
    assert_eq!((stats.takeovers_accepted, stats.takeovers_refused, stats.bad_keys), (2, 7, 4));
}

#[tokio::test]
async fn ten_wrong_proofs_make_a_leg_busy_but_no_other() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handles = [scheduler.meeting(1, 0).await, scheduler.meeting(2, 0).await];
    for _ in 0..10 {
        let result = scheduler.take_over_one(leg(1), handles[0], &secret(9)).await;
        assert_eq!(result.code, ErrorCode::BAD_KEY);
    }
    let result = scheduler.take_over_one(leg(1), handles[0], &secret(1)).await;
    assert!(result.code == ErrorCode::BUSY && result.retry_after_ms > 50_000, "{result:?}");
    assert_eq!(scheduler.take_over_one(leg(2), handles[1], &secret(1)).await.code, ErrorCode::OK);
}

#[tokio::test]
async fn a_takeover_holds_at_most_fourteen_claims() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let claims: Vec<_> = (0..15).map(|n| scheduler.claim(leg(n), Handle(1), &secret(1))).collect();
    assert_eq!(scheduler.take_over(claims[..14].to_vec()).await.len(), 14);
    assert_eq!(scheduler.failure(Takeover { claims }).await.code, ErrorCode::TOO_MANY);
}

#[tokio::test]
async fn a_busy_server_refuses_takeovers_and_commands_without_effect() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = scheduler.meeting(1, 1).await;
    let before = server.dump();
    server.control(Request::Busy { on: true, retry_after_ms: Some(250) }).await.unwrap();
    let result = scheduler.take_over_one(leg(1), handle, &secret(1)).await;
    assert_eq!((result.code, result.retry_after_ms), (ErrorCode::BUSY, 250));
    let command = Command { leg: leg(1), handle, intent: 7, op: add(7) };
    let failure = scheduler.failure(command.clone()).await;
    assert_eq!((failure.code, failure.retry_after_ms), (ErrorCode::BUSY, 250));
    assert_eq!(server.dump(), before);
    server.control(Request::Busy { on: false, retry_after_ms: None }).await.unwrap();
    // The same request, as SPEC M-6 has it.
    let request = scheduler.request;
    let answer = scheduler.ask_as(request, command).await;
    assert!(matches!(&answer[..], [Message::CommandAnswer(answer)] if answer.code.is_ok()), "{answer:?}");
}

#[tokio::test]
async fn an_orphan_is_adopted_only_where_the_configuration_permits_it() {
    for permit_adopt in [false, true] {
        let server = simulator_with(Options { permit_adopt, ..Options::default() }).await;
        let made = server.control(Request::CreateForeign { meeting: None, terminals: 3, count: None }).await.unwrap();
        let old: LegId = serde_json::from_value(made[0]["leg"].clone()).unwrap();
        let handle: Handle = serde_json::from_value(made[0]["handle"].clone()).unwrap();
        let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
        assert_eq!(scheduler.take_over_one(old, handle, &secret(1)).await.code, ErrorCode::BAD_KEY);
        let adopt = Adopt { handle, old, new: leg(5), secret: secret(5), generation: 2 };
        let answer = |message| match message {
            Message::AdoptAnswer(answer) => answer,
            other => panic!("{other:?}"),
        };
        let first = answer(scheduler.one(adopt.clone()).await);
        if !permit_adopt {
            assert_eq!(first.code, ErrorCode::NOT_ALLOWED);
            continue;
        }
        assert_eq!((first.code, first.mark), (ErrorCode::OK, server.dump().legs[0].mark));
        assert_eq!(answer(scheduler.one(adopt).await), first, "the same adoption again is the same");
        assert_eq!(server.stats().adoptions, 1);
        assert_eq!(scheduler.command(leg(5), 1, add(5)).await.code, ErrorCode::OK, "and it gives command");
        let dump = server.dump();
        assert_eq!((dump.legs[0].leg, dump.legs[0].generation), (leg(5), 2));
        let mut next = Scheduler::attached(server.address, token(2, 2)).await;
        assert_eq!(next.take_over_one(leg(5), handle, &secret(5)).await.code, ErrorCode::OK);
        let gone = Adopt { handle: Handle(9), old, new: leg(6), secret: secret(6), generation: 1 };
        assert_eq!(answer(next.one(gone).await).code, ErrorCode::UNKNOWN_MEETING);
        next.meeting(7, 0).await;
        let taken = Adopt { handle, old: leg(5), new: leg(7), secret: secret(6), generation: 1 };
        assert_eq!(answer(next.one(taken).await).code, ErrorCode::EXISTS);
    }
}

#[tokio::test]
async fn a_request_id_below_the_window_never_runs_even_after_a_restart() {
    let server = simulator().await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    scheduler.request = 5000;
    scheduler.meeting(1, 1).await;
    for restarted in [false, true] {
        if restarted {
            let mode = RestartMode::SameBoot;
            server.control(Request::Restart { mode, down_ms: 0 }).await.unwrap();
            scheduler = Scheduler::attached(server.address, token(1, 1)).await;
        }
        let command = Command { leg: leg(1), handle: Handle(0), intent: 50, op: add(50) };
        let answer = scheduler.ask_as(3000, command).await;
        let [Message::Failure(failure)] = &answer[..] else { panic!("{answer:?}") };
        assert_eq!(failure.code, ErrorCode::BELOW_WINDOW, "restarted: {restarted}");
    }
    // A newer token begins a new window.
    let mut next = Scheduler::attached(server.address, token(2, 2)).await;
    let handle = server.dump().legs[0].handle;
    assert_eq!(next.take_over_one(leg(1), handle, &secret(1)).await.code, ErrorCode::OK);
}

#[tokio::test]
async fn nothing_is_answered_to_a_notice() {
    let server = simulator().await;
    let mut scheduler = Scheduler::connect(server.address).await;
    scheduler.send(Header::default(), Query { cut: 0, after: 0, packets_max: 1 }.into()).await;
    scheduler.one(KeepAlive {}).await;
    assert_eq!((server.stats().queries, server.stats().unknown), (0, 1));
}
