//! What stores promise about looking legs up, and about rows that cannot be read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::store_fixture::{Fixture, leg_id, new_leg, state};
use remeet::model::StoredState::{Ended, Ending, InMeeting};
use remeet::store::{Outcome, Unit, Write};
use remeet_protocol::{LegId, MeetingId, ServerId};

pub(crate) async fn look_up_finds_the_servers_live_legs_and_the_named_ones(f: &Fixture) {
    let mut units = Vec::new();
    for n in 1..=6 {
        let mut new = new_leg(n, if n == 2 { Ended } else { InMeeting });
        let server = ServerId(if n >= 5 { 2 } else { 1 });
        (new.row.server, new.key.server) = (server, server);
        units.push(Unit::one(Write::NewLeg(Box::new(new))));
    }
    f.write(units).await;
    let of = async |server: u32, named: &[LegId]| {
        let look_up = f.store.look_up(ServerId(server), named).await.unwrap();
        assert!(look_up.bad.is_empty());
        let mut legs: Vec<LegId> = look_up.found.into_iter().map(|found| found.row.leg).collect();
        legs.sort_unstable();
        legs
    };
    assert_eq!(of(1, &[]).await, [leg_id(1), leg_id(3), leg_id(4)]);
    let named = [leg_id(2), leg_id(5), leg_id(3), leg_id(3), leg_id(99)];
    assert_eq!(of(1, &named).await, [leg_id(1), leg_id(2), leg_id(3), leg_id(4), leg_id(5)]);
    assert_eq!(of(9, &[leg_id(6)]).await, [leg_id(6)]);
}

pub(crate) async fn live_legs_come_in_pages_that_cut_no_meeting(f: &Fixture) {
    let mut units = Vec::new();
    for n in 1..=5 {
        for leg in 0..if n == 3 { 3 } else { 1 } {
            let mut new = new_leg(n, if n == 2 { Ended } else { InMeeting });
            (new.row.leg.leg, new.key.leg.leg) = (leg, leg);
            units.push(Unit::one(Write::NewLeg(Box::new(new))));
        }
    }
    f.write(units).await;
    let mut pages = Vec::new();
    let mut after = MeetingId(uuid::Uuid::nil());
    loop {
        let page = f.store.live_legs(after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.leg.meeting;
        pages.push(page.iter().map(|row| (row.leg.meeting, row.leg.leg)).collect::<Vec<_>>());
    }
    let meeting = |n| leg_id(n).meeting;
    let expected = [
        vec![(meeting(1), 0)],
        // Alone it has more legs than fit.
        vec![(meeting(3), 0), (meeting(3), 1)],
        vec![(meeting(4), 0), (meeting(5), 0)],
    ];
    assert_eq!(pages, expected);
}

pub(crate) async fn unreadable_rows_are_named_and_harm_no_others(f: &Fixture) {
    for n in 1..=5 {
        f.leg(n).await;
    }
    let meeting = |n| leg_id(n).meeting;
    f.sql(&format!("UPDATE legs SET state = 'dancing' WHERE meeting = '{}'", meeting(1))).await;
    let digest = if f.kind == crate::store_fixture::Kind::Sqlite { "x'0102'" } else { "'\\x0102'" };
    f.sql(&format!("UPDATE legs SET mark_digest = {digest} WHERE meeting = '{}'", meeting(2))).await;
    f.sql(&format!("UPDATE recovery_keys SET secret = {digest} WHERE meeting = '{}'", meeting(3))).await;
    f.sql(&format!("UPDATE legs SET format_version = 2 WHERE meeting = '{}'", meeting(4))).await;
    let named: Vec<LegId> = (1..=5).map(leg_id).collect();
    let look_up = f.store.look_up(ServerId(1), &named).await.unwrap();
    assert_eq!(look_up.found.len(), 1);
    assert_eq!(look_up.found[0].row.leg, leg_id(5));
    let mut bad: Vec<(String, String)> = look_up.bad.into_iter().map(|bad| (bad.leg, bad.reason)).collect();
    bad.sort();
    let expected = ["dancing", "mark_digest", "secret", "format 2"];
    assert_eq!(bad.len(), expected.len(), "{bad:?}");
    for (n, ((leg, reason), word)) in (1..).zip(bad.iter().zip(expected)) {
        assert_eq!(*leg, leg_id(n).to_string());
        assert!(reason.contains(word), "{reason}");
    }
    // Listing goes on behind them, and a write to one of them loses without harm to its neighbour.
    assert_eq!(f.store.live_legs(MeetingId(uuid::Uuid::nil()), 1).await.unwrap()[0].leg, leg_id(3));
    let outcomes = f.write(vec![
        Unit::one(state(leg_id(1), 1, InMeeting, Ending)),
        Unit::one(state(leg_id(5), 1, InMeeting, Ending)),
    ]);
    assert_eq!(outcomes.await, [Outcome::Lost { version: 1 }, Outcome::Applied { version: 2 }]);
}
