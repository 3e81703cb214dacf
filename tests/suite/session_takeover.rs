//! Takeovers and single answers: every claim is answered once, by its own result.

#![allow(clippy::unwrap_used)]

use crate::session_talk::*;
use remeet::session::{Heard, Request, RequestError, Settings};
use remeet_protocol::message::*;
use remeet_protocol::*;

#[test]
fn a_takeover_of_many_legs_fits_its_packets_and_so_do_the_answers() {
    let mut talk = Talk::attached(Settings::default());
    let handles: Vec<u64> = (1..=100).collect();
    talk.ask(Request::Takeover(handles.iter().map(|handle| claim(*handle)).collect()));
    let sent = talk.sent();
    assert_eq!(sent.len(), 8);
    let mut answered = Vec::new();
    for packet in sent {
        let Message::Takeover(takeover) = &packet.message else { panic!("{packet:?}") };
        let asked: Vec<u64> = takeover.claims.iter().map(|claim| claim.handle.0).collect();
        let answer = Packet { message: results(&asked).into(), ..packet.clone() };
        for whole in [&packet, &answer] {
            whole.write(&mut bytes::BytesMut::new()).unwrap();
        }
        talk.answer(&packet, results(&asked));
        match &talk.heard()[..] {
            [Heard::Takeover(_, Ok(heard))] => answered.extend(heard.results.iter().map(|result| result.handle.0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answered, handles);
}

#[test]
fn claims_that_an_answer_leaves_out_are_asked_again_but_not_for_ever() {
    let mut talk = Talk::attached(Settings::default());
    let ticket = talk.ask(Request::Takeover((1..=3).map(claim).collect()));
    let first = talk.only();
    talk.answer(&first, results(&[2]));
    assert!(matches!(&talk.heard()[..], [Heard::Takeover(_, Ok(heard))] if heard.results == [result(2)]));
    let second = talk.only();
    assert!(second.header.request > first.header.request);
    assert!(matches!(&second.message, Message::Takeover(takeover) if takeover.claims == [claim(1), claim(3)]));
    talk.answer(&second, results(&[2, 3]));
    assert!(matches!(&talk.heard()[..], [Heard::Takeover(_, Ok(heard))] if heard.results == [result(3)]), "2 once");
    let third = talk.only();
    talk.answer(&third, results(&[]));
    let heard = talk.heard();
    assert!(
        matches!(&heard[0], Heard::Takeover(t, Err((legs, RequestError::Broken(_)))) if *t == ticket && *legs == [leg(1)]),
        "{heard:?}"
    );
}

#[test]
fn an_answer_of_several_packets_gives_each_result_as_it_comes() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Takeover((1..=3).map(claim).collect()));
    let request = talk.only();
    talk.part(&request, 1, true, results(&[3]));
    assert!(matches!(&talk.heard()[..], [Heard::Takeover(_, Ok(heard))] if heard.results == [result(3)]));
    talk.part(&request, 0, false, results(&[1, 2]));
    assert!(matches!(&talk.heard()[..], [Heard::Takeover(_, Ok(heard))] if heard.results.len() == 2));
    assert_eq!(talk.session.lengths().in_flight, 0);
}

#[test]
fn rule_7_a_result_for_a_leg_that_was_not_asked_is_broken() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Takeover(vec![claim(1), claim(2)]));
    let request = talk.only();
    talk.answer(
        &request,
        TakeoverAnswer { results: vec![result(1), TakeoverResult { leg: leg(9), ..result(2) }], ..results(&[]) },
    );
    let heard = talk.heard();
    assert!(matches!(&heard[0], Heard::Takeover(_, Ok(heard)) if heard.results == [result(1)]), "{heard:?}");
    assert!(
        matches!(&heard[1], Heard::Takeover(_, Err((legs, RequestError::Broken(_)))) if *legs == [leg(2)]),
        "{heard:?}"
    );
}

#[test]
fn answers_to_another_question_are_broken() {
    let mut talk = Talk::attached(Settings::default());
    talk.ask(Request::Command(command(1, 5)));
    let request = talk.only();
    talk.answer(&request, command_answer(&command(1, 4)));
    assert_broken(&talk.heard(), "another intent");
    talk.ask(Request::Command(command(1, 5)));
    let request = talk.only();
    talk.answer(&request, results(&[1]));
    assert_broken(&talk.heard(), "another message");
    talk.ask(Request::Command(command(1, 5)));
    let request = talk.only();
    talk.part(&request, 1, true, command_answer(&command(1, 5)));
    assert_broken(&talk.heard(), "a second packet of one");
}
