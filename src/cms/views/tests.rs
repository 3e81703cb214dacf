//! Goal: an answer that does not say that its meeting is being recovered has what the recovery brought. Method: a store
//! that is written to at the one moment where a read from before would lack it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::meeting;
use crate::model::{RecoveryKey, StoredLeg, StoredState};
use crate::scheduler::Handle;
use crate::store::{Begun, Candidate, ContentWrite, NewLeg, Store, StoreOptions, Unit, Write, open};
use remeet_protocol::message::{EndCause, MeetingState, Message};
use remeet_protocol::record::{EntryRow, Mark, Number, RecordState};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{Change, DomainId, Epoch, Holder, LegId, MeetingId, Record, Secret, ServerId, Token};
use std::sync::Arc;
use std::time::Duration;

const LEG: LegId = LegId { meeting: MeetingId(uuid::Uuid::from_u128(1)), leg: 0 };

/// A store with one meeting, without content; and its term.
async fn with_a_meeting(url: &str) -> (Arc<dyn Store>, Token) {
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
        leg: LEG,
        domain: key.domain,
        server: key.server,
        state: StoredState::InMeeting,
        cause: EndCause::None,
        epoch: token.epoch,
        boot: None,
        handle: None,
        table_revision: 0,
        mark: Mark::default(),
        generation: 1,
        intent: 0,
        first: false,
        quarantine: None,
        version: 1,
        number: key.number.clone(),
        title: key.title.clone(),
    };
    let new = Unit::one(Write::NewLeg(Box::new(NewLeg { row, key })));
    store.write(token, &[new]).await.unwrap();
    (store, token)
}

#[tokio::test]
async fn an_answer_that_is_not_said_to_be_recovering_has_what_the_recovery_brought_last() {
    let directory = tempfile::tempdir().unwrap();
    let (store, token) = with_a_meeting(&format!("sqlite:{}", directory.path().join("remeet.db").display())).await;
    let row = EntryRow { terminal: Text::cut("100"), key: Text::cut("seat"), value: Blob::new("4").unwrap() };
    let record = Record::Entry(row);
    let mut mark = Mark { revision: 5, ..Mark::default() };
    mark.count(&record, true);
    let changes = vec![Change { revision: 5, state: RecordState::Present(record) }];
    let brought = Unit::one(Write::Content(ContentWrite { leg: LEG, changes, mark: Some(mark), full: true }));
    // The recovery is over, and what it brought is stored, just before the driver is asked whether it is.
    let writer = Arc::clone(&store);
    let handle = Handle::that_derives(store, move |rows| async move {
        writer.write(token, &[brought]).await.unwrap();
        vec![(MeetingState::InMeeting, false); rows.len()]
    });
    let (messages, recovering) = meeting(&handle, LEG.meeting, true).await.unwrap().expect("there is one");
    assert!(!recovering);
    let brought = |message: &Message| matches!(message, Message::MeetingRecords(records) if records.changes.len() == 1);
    assert!(messages.iter().any(brought), "{messages:?}");
}
