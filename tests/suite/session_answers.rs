//! Answers of many packets and many pages: what a right one is, and every way in which one can lie.

#![allow(clippy::unwrap_used)]

use crate::session_talk::*;
use remeet::session::{Heard, Inventory, PulledPage, Request, RequestError, Settings};
use remeet_protocol::message::*;
use remeet_protocol::record::{Mark, RecordKey, RecordState};
use remeet_protocol::*;

const CUT: u64 = 40;

fn page(handles: &[u64]) -> InventoryPage {
    InventoryPage { cut: CUT, entries: handles.iter().map(|handle| entry(*handle)).collect() }
}

fn end(after: u64, page_entries: u32, complete: bool, total: u64) -> InventoryEnd {
    InventoryEnd { cut: CUT, table_revision: 9, boot: boot(), after, page_entries, complete, total }
}

fn query_of(packet: &Packet) -> Query {
    match &packet.message {
        Message::Query(query) => query.clone(),
        other => panic!("{other:?}"),
    }
}

fn pull_of(packet: &Packet) -> Pull {
    match &packet.message {
        Message::Pull(pull) => pull.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_inventory_of_several_pages_is_heard_whole() {
    let mut talk = Talk::up(Settings::default());
    let ticket = talk.ask(Request::Inventory);
    let first = talk.only();
    assert_eq!((query_of(&first).cut, query_of(&first).after), (0, 0));
    talk.part(&first, 0, false, page(&[1, 2]));
    talk.part(&first, 1, true, end(2, 2, false, 3));
    let second = talk.only();
    assert_eq!((query_of(&second).cut, query_of(&second).after), (CUT, 2));
    assert!(second.header.request > first.header.request);
    talk.part(&second, 0, false, page(&[7]));
    assert_eq!(talk.heard(), vec![], "without the complete mark nothing may be concluded");
    talk.part(&second, 1, true, end(7, 1, true, 3));
    let inventory = Inventory { boot: boot(), table_revision: 9, entries: vec![entry(1), entry(2), entry(7)] };
    assert_eq!(talk.heard(), vec![Heard::Inventory(ticket, Ok(inventory))]);
    assert_eq!(talk.session.lengths().in_flight, 0);
}

#[test]
fn an_empty_inventory_is_one_end_packet() {
    let mut talk = Talk::up(Settings::default());
    let ticket = talk.ask(Request::Inventory);
    let request = talk.only();
    talk.answer(&request, end(0, 0, true, 0));
    let inventory = Inventory { boot: boot(), table_revision: 9, entries: vec![] };
    assert_eq!(talk.heard(), vec![Heard::Inventory(ticket, Ok(inventory))]);
}

/// For a link that loses packets.
fn datagrams() -> Settings {
    Settings { stream: false, ..Settings::default() }
}

#[test]
fn a_page_with_a_gap_is_asked_again_alone_under_a_fresh_id_in_fewer_packets() {
    let mut talk = Talk::up(datagrams());
    talk.ask(Request::Inventory);
    let first = talk.only();
    talk.part(&first, 0, false, page(&[1]));
    talk.part(&first, 2, true, end(3, 3, true, 3));
    talk.pass_ms(100);
    let again = talk.only();
    assert!(again.header.request > first.header.request);
    assert_eq!((query_of(&again).cut, query_of(&again).after), (CUT, 0), "the same cut, by name");
    assert_eq!(query_of(&again).packets_max, query_of(&first).packets_max / 2);
    // What was missing of the first answer, late: two answers are not put together.
    talk.part(&first, 1, false, page(&[2]));
    assert_eq!(talk.heard(), vec![]);
    talk.part(&again, 0, false, page(&[1, 2]));
    talk.part(&again, 1, false, page(&[3]));
    talk.part(&again, 2, true, end(3, 3, true, 3));
    assert!(matches!(&talk.heard()[..], [Heard::Inventory(_, Ok(inventory))] if inventory.entries.len() == 3));
}

#[test]
fn a_page_whose_end_is_lost_is_asked_again_after_a_while() {
    let mut talk = Talk::up(datagrams());
    talk.ask(Request::Inventory);
    let first = talk.only();
    talk.part(&first, 0, false, page(&[1]));
    talk.pass_ms(299);
    assert_eq!(talk.sent(), vec![]);
    talk.pass_ms(1);
    let again = talk.only();
    talk.part(&again, 0, false, page(&[1]));
    talk.part(&again, 1, true, end(1, 1, true, 1));
    assert!(matches!(talk.heard()[..], [Heard::Inventory(_, Ok(_))]));
}

#[test]
fn on_a_stream_a_slow_answer_of_many_packets_is_awaited_and_given_up_at_its_deadline() {
    let mut talk = Talk::up(Settings::default());
    let ticket = talk.ask(Request::Inventory);
    let request = talk.only();
    talk.part(&request, 0, false, page(&[1]));
    for _ in 0..14 {
        talk.pass_ms(1_000);
        talk.alive();
        assert_eq!((talk.sent(), talk.heard()), (vec![], vec![]));
    }
    talk.pass_ms(1_000);
    assert_eq!(talk.heard(), vec![Heard::Inventory(ticket, Err(RequestError::NoAnswer))]);
}

#[test]
fn a_cut_that_is_gone_is_begun_anew_but_not_for_ever() {
    let mut talk = Talk::up(Settings::default());
    talk.ask(Request::Inventory);
    let mut asked = 0;
    while let [request] = &talk.sent()[..] {
        let request = request.clone();
        assert_eq!((query_of(&request).cut, query_of(&request).after), (0, 0), "from the beginning");
        asked += 1;
        talk.part(&request, 0, false, page(&[1]));
        talk.part(&request, 1, true, end(1, 1, false, 2));
        let next = talk.only();
        talk.refuse(&next, ErrorCode::CUT_GONE, 0);
    }
    assert_eq!(asked, 4);
    assert!(matches!(talk.heard()[..], [Heard::Inventory(_, Err(RequestError::Refused(_)))]));
}

#[test]
fn two_cuts_are_never_put_together() {
    let mut talk = Talk::up(Settings::default());
    talk.ask(Request::Inventory);
    let first = talk.only();
    talk.part(&first, 0, false, page(&[1]));
    talk.part(&first, 1, true, InventoryEnd { cut: CUT + 1, ..end(2, 2, true, 2) });
    let again = talk.only();
    assert!(again.header.request > first.header.request);
    assert_eq!(query_of(&again).cut, CUT, "by the number of what came first");
    talk.answer(&again, InventoryEnd { cut: CUT + 1, ..super_end() });
    assert_broken(&talk.heard(), "asked by its number, another cut is a breach");
}

#[test]
fn lying_inventories_are_broken_and_stop() {
    type Lie = (&'static str, Vec<(u32, bool, Message)>);
    let page = |handles: &[u64]| Message::from(page(handles));
    let end = |after, page_entries, complete, total| Message::from(end(after, page_entries, complete, total));
    let lies: Vec<Lie> = vec![
        ("page count too high", vec![(0, false, page(&[1])), (1, true, end(1, 2, true, 1))]),
        ("page count too low", vec![(0, false, page(&[1, 2])), (1, true, end(2, 1, true, 2))]),
        ("total too high", vec![(0, false, page(&[1])), (1, true, end(1, 1, true, 2))]),
        ("total too low", vec![(0, false, page(&[1, 2])), (1, true, end(2, 2, false, 1))]),
        ("descending", vec![(0, false, page(&[2, 1])), (1, true, end(2, 2, true, 2))]),
        ("twice the same", vec![(0, false, page(&[2, 2])), (1, true, end(2, 2, true, 2))]),
        ("does not advance", vec![(0, true, end(0, 0, false, 2))]),
        ("goes on elsewhere", vec![(0, false, page(&[1])), (1, true, end(9, 1, false, 2))]),
        ("more packets than asked for", vec![(65, false, page(&[1]))]),
        ("a last page", vec![(0, true, page(&[1]))]),
        ("an end that is not last", vec![(0, false, end(0, 0, true, 0))]),
        ("huge total", vec![(0, false, page(&[1])), (1, true, end(1, 1, false, u64::MAX))]),
        ("cut 0", vec![(0, true, InventoryEnd { cut: 0, ..super_end() }.into())]),
        ("another message", vec![(0, true, attached().into())]),
    ];
    for (what, packets) in lies {
        let mut talk = Talk::up(Settings::default());
        talk.ask(Request::Inventory);
        let request = talk.only();
        for (index, last, message) in packets {
            talk.part(&request, index, last, message);
        }
        assert_broken(&talk.heard(), what);
        talk.pass_ms(900);
        assert_eq!(talk.sent(), vec![], "{what}: it is not asked again");
        assert!(talk.session.is_up(), "{what}: the stream itself can be trusted");
    }
}

fn super_end() -> InventoryEnd {
    end(0, 0, true, 0)
}

#[test]
fn pages_of_one_cut_that_contradict_each_other_are_broken() {
    for (what, second) in
        [("table revision", InventoryEnd { table_revision: 10, ..end(2, 1, true, 2) }), ("total", end(2, 1, true, 3))]
    {
        let mut talk = Talk::up(Settings::default());
        talk.ask(Request::Inventory);
        let request = talk.only();
        talk.part(&request, 0, false, page(&[1]));
        talk.part(&request, 1, true, end(1, 1, false, 2));
        let request = talk.only();
        talk.part(&request, 0, false, page(&[2]));
        talk.part(&request, 1, true, second);
        assert_broken(&talk.heard(), what);
    }
}

#[test]
fn rule_17_inventories_and_pulls_without_end_are_stopped() {
    let settings = Settings { pages_max: 20, inventory_entries_max: 1_000, ..Settings::default() };
    let mut talk = Talk::attached(settings);
    talk.ask(Request::Inventory);
    let mut pages = 0;
    while let [request] = &talk.sent()[..] {
        let request = request.clone();
        pages += 1;
        talk.part(&request, 0, false, page(&[pages]));
        talk.part(&request, 1, true, end(pages, 1, false, 1_000));
    }
    assert_eq!(pages, 20);
    assert_broken(&talk.heard(), "inventory");
    talk.ask(Request::Pull { handle: Handle(1), leg: leg(1), since: 1 });
    let mut pages = 0;
    while let [request] = &talk.sent()[..] {
        let request = request.clone();
        pages += 1;
        talk.answer(&request, pull_end(pages + 1, 0, false, u64::MAX));
    }
    assert_eq!(pages, 20);
    assert_broken(&talk.heard(), "pull");
}

fn records(revisions: &[u64]) -> PullPage {
    PullPage { leg: leg(1), changes: revisions.iter().map(|revision| change(*revision)).collect() }
}

fn pull_end(after: u64, page_changes: u32, complete: bool, upto: u64) -> PullEnd {
    let upto = Mark { revision: upto, ..Mark::default() };
    PullEnd { leg: leg(1), full: false, upto, after, page_changes, complete }
}

fn pull(talk: &mut Talk, since: u64) -> Packet {
    talk.ask(Request::Pull { handle: Handle(1), leg: leg(1), since });
    talk.only()
}

#[test]
fn each_page_of_a_pull_is_heard_as_it_comes() {
    let mut talk = Talk::attached(Settings::default());
    let first = pull(&mut talk, 10);
    let asked = pull_of(&first);
    assert_eq!((asked.since, asked.after, asked.upto, asked.full), (10, 10, 0, false));
    talk.part(&first, 1, true, pull_end(14, 2, false, 20));
    assert_eq!(talk.heard(), vec![], "not while a part is missing");
    talk.part(&first, 0, false, records(&[12, 14]));
    let page = |revisions: &[u64], complete: Option<u64>| PulledPage {
        leg: leg(1),
        changes: revisions.iter().map(|revision| change(*revision)).collect(),
        full: false,
        complete: complete.map(|revision| Mark { revision, ..Mark::default() }),
    };
    assert!(matches!(&talk.heard()[..], [Heard::Pulled(_, Ok(heard))] if *heard == page(&[12, 14], None)));
    let second = talk.only();
    let asked = pull_of(&second);
    assert_eq!((asked.since, asked.after, asked.upto, asked.full), (10, 14, 20, false));
    talk.part(&second, 0, false, records(&[20]));
    talk.part(&second, 1, true, pull_end(20, 1, true, 20));
    assert!(matches!(&talk.heard()[..], [Heard::Pulled(_, Ok(heard))] if *heard == page(&[20], Some(20))));
    assert_eq!(talk.session.lengths().in_flight, 0);
}

#[test]
fn a_pull_may_turn_out_to_be_full_and_stays_so() {
    let mut talk = Talk::attached(Settings::default());
    let first = pull(&mut talk, 10);
    talk.part(&first, 0, false, records(&[2, 3]));
    talk.part(&first, 1, true, PullEnd { full: true, ..pull_end(3, 2, false, 20) });
    assert!(matches!(&talk.heard()[..], [Heard::Pulled(_, Ok(page))] if page.full));
    let second = talk.only();
    assert!(pull_of(&second).full);
    talk.part(&second, 0, true, pull_end(20, 0, true, 20));
    assert_broken(&talk.heard(), "full no more");
}

#[test]
fn a_pull_s_page_with_a_gap_is_asked_again_whole_under_a_fresh_id_in_fewer_packets() {
    let mut talk = Talk::attached(datagrams());
    let first = pull(&mut talk, 10);
    talk.part(&first, 1, true, pull_end(20, 2, true, 20));
    talk.pass_ms(100);
    let again = talk.only();
    assert!(again.header.request > first.header.request);
    assert_eq!(pull_of(&again).packets_max, pull_of(&first).packets_max / 2);
    // The rest of the first answer, late: of another split, so it must not be mixed in.
    talk.part(&first, 0, false, records(&[12, 13]));
    assert_eq!(talk.heard(), vec![]);
    talk.part(&again, 0, false, records(&[12, 14]));
    talk.part(&again, 1, true, pull_end(20, 2, true, 20));
    assert!(matches!(&talk.heard()[..], [Heard::Pulled(_, Ok(page))] if page.changes[1] == change(14)));
}

#[test]
fn a_pull_s_answer_that_was_made_anew_is_asked_afresh() {
    let mut talk = Talk::attached(Settings::default());
    let first = pull(&mut talk, 10);
    talk.part(&first, 0, false, records(&[12, 13]));
    talk.part(&first, 0, false, records(&[12, 14]));
    let again = talk.only();
    assert!(again.header.request > first.header.request);
}

#[test]
fn lying_pulls_are_broken_and_stop() {
    type Lie = (&'static str, Vec<(u32, bool, Message)>);
    let lies: Vec<Lie> = vec![
        ("count", vec![(0, false, records(&[12]).into()), (1, true, pull_end(12, 2, true, 20).into())]),
        ("descending", vec![(0, false, records(&[13, 12]).into()), (1, true, pull_end(13, 2, true, 20).into())]),
        ("at or below the mark", vec![(0, false, records(&[10]).into()), (1, true, pull_end(10, 1, true, 20).into())]),
        ("beyond its end", vec![(0, false, records(&[21]).into()), (1, true, pull_end(21, 1, true, 20).into())]),
        ("does not advance", vec![(0, true, pull_end(10, 0, false, 20).into())]),
        ("skips back", vec![(0, false, records(&[15]).into()), (1, true, pull_end(14, 1, false, 20).into())]),
        ("goes beyond its end", vec![(0, true, pull_end(30, 0, false, 20).into())]),
        ("another leg's records", vec![(0, false, PullPage { leg: leg(2), changes: vec![] }.into())]),
        ("another leg's end", vec![(0, true, PullEnd { leg: leg(2), ..pull_end(20, 0, true, 20) }.into())]),
        ("more packets than asked for", vec![(65, false, records(&[12]).into())]),
        ("a last page", vec![(0, true, records(&[12]).into())]),
        ("an inventory", vec![(0, true, super_end().into())]),
    ];
    for (what, packets) in lies {
        let mut talk = Talk::attached(Settings::default());
        let request = pull(&mut talk, 10);
        for (index, last, message) in packets {
            talk.part(&request, index, last, message);
        }
        assert_broken(&talk.heard(), what);
        talk.pass_ms(900);
        assert_eq!(talk.sent(), vec![], "{what}: it is not asked again");
    }
}

#[test]
fn a_pull_of_everything_that_is_not_full_is_broken_and_so_is_a_removal_in_a_full_one() {
    let mut talk = Talk::attached(Settings::default());
    let request = pull(&mut talk, 0);
    talk.answer(&request, pull_end(0, 0, true, 20));
    assert_broken(&talk.heard(), "not full");
    let request = pull(&mut talk, 0);
    let removed = RecordState::Removed(RecordKey::Leg);
    talk.part(&request, 0, false, PullPage { leg: leg(1), changes: vec![Change { revision: 5, state: removed }] });
    talk.part(&request, 1, true, PullEnd { full: true, ..pull_end(5, 1, true, 20) });
    assert_broken(&talk.heard(), "a removal");
}
