//! A store with one meeting, for tests of what stands above it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Begun, Candidate, NewLeg, Store, StoreOptions, Unit, Write, open};
use crate::model::{RecoveryKey, StoredLeg, StoredState};
use remeet_protocol::record::Number;
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, DomainId, Epoch, Handle, Holder, LegId, MeetingId, Secret, ServerId, Token};
use std::sync::Arc;
use std::time::Duration;

/// Its leg.
pub(crate) const LEG: LegId = LegId { meeting: MeetingId(uuid::Uuid::from_u128(1)), leg: 0 };
/// Where it lives.
pub(crate) const PLACE: (BootId, Handle) = (BootId(uuid::Uuid::from_u128(5)), Handle(9));

/// A store with one meeting, without content; and its term.
pub(crate) async fn with_a_meeting(url: &str) -> (Arc<dyn Store>, Token) {
    let store = open(url, &StoreOptions::default()).unwrap();
    store.migrate().await.unwrap();
    let holder = Holder(uuid::Uuid::from_u128(7));
    let candidate = Candidate { node: "a", holder, lease: Duration::from_secs(600), epoch_above: Epoch(0) };
    let Begun::Granted(token) = store.begin_term(candidate).await.unwrap() else { panic!("nobody else is there") };
    let key = RecoveryKey {
        leg: LEG,
        domain: DomainId(1),
        server: ServerId(1),
        secret: Secret::new([3; 16]),
        generation: 1,
        number: Number::default(),
        title: Text::cut("Rounds"),
        creator: Number::default(),
        creator_name: Text::default(),
        made_at_ms: 1,
    };
    let row = StoredLeg {
        epoch: token.epoch,
        boot: Some(PLACE.0),
        handle: Some(PLACE.1),
        ..StoredLeg::new(&key, StoredState::InMeeting)
    };
    let new = Unit::one(Write::NewLeg(Box::new(NewLeg { row, key })));
    store.write(token, &[new]).await.unwrap();
    (store, token)
}
