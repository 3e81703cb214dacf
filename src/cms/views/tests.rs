//! Goal: an answer that does not say that its meeting is being recovered has what the recovery brought. Method: a store
//! that is written to at the one moment where a read from before would lack it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::meeting;
use crate::scheduler::Handle;
use crate::store::fixture::{LEG, with_a_meeting};
use crate::store::{ContentWrite, Unit, Write};
use remeet_protocol::message::{MeetingState, Message};
use remeet_protocol::record::{EntryRow, Mark, RecordState};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{Change, DomainId, Record};
use std::sync::Arc;

#[tokio::test]
async fn an_answer_that_is_not_said_to_be_recovering_has_what_the_recovery_brought_last() {
    let directory = tempfile::tempdir().unwrap();
    let (store, token) = with_a_meeting(&format!("sqlite:{}", directory.path().join("remeet.db").display())).await;
    let row = EntryRow { terminal: Text::cut("100"), key: Text::cut("seat"), value: Blob::new("4").unwrap() };
    let record = Record::Entry(row);
    let mut mark = Mark { revision: 5, ..Mark::default() };
    mark.count(&record, true);
    let changes = vec![Change { revision: 5, state: RecordState::Present(record) }];
    let brought = Unit::one(Write::Content(ContentWrite {
        leg: LEG,
        domain: DomainId(1),
        changes,
        base: 0,
        mark: Some(mark),
        full: true,
    }));
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
