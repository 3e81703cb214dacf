//! Goal: what a meeting client reads is whole and in order, or is read again (rule 15). Method: the client
//! library against a scheduler that leaves gaps, resets, and answers from an older term.

#![allow(clippy::unwrap_used)]

use crate::cli_client::settings;
use crate::fake_scheduler::{Back, DEADLINE, FakeScheduler, Heard, failure, leg, meeting, welcome};
use remeet::cms::client::{Client, ClientError, Notice, Subscription};
use remeet_protocol::message::{
    ClientEvent, EndCause, EventKind, ListEnd, ListEntry, ListPage, MeetingEnd, MeetingInfo, MeetingRecords,
    MeetingState, Reset, Subscribed,
};
use remeet_protocol::record::{Change, Number, RecordKey, RecordState};
use remeet_protocol::wire::Text;
use remeet_protocol::{Epoch, ErrorCode, MeetingId, Message, ServerId};
use tokio::time::timeout;

fn entry(number: u16) -> ListEntry {
    ListEntry {
        meeting: meeting(number),
        state: MeetingState::InMeeting,
        server: ServerId(1),
        revision: 1,
        number: Text::cut("100"),
        title: Text::cut("title"),
        legs: 1,
    }
}

fn page(numbers: std::ops::Range<u16>) -> Back {
    Back::answer(ListPage { entries: numbers.map(entry).collect() })
}

fn list_end(after: u16, entries: u32, complete: bool) -> Back {
    Back::answer(ListEnd { after: meeting(after), entries, complete })
}

fn info(recovering: bool, update: bool) -> Back {
    let state = if recovering { MeetingState::Recovering } else { MeetingState::InMeeting };
    Back::answer(MeetingInfo {
        meeting: meeting(1),
        state,
        cause: EndCause::None,
        recovering,
        update,
        epoch: Epoch(1),
        server: ServerId(1),
        number: Text::cut("100"),
        title: Text::cut("title"),
        revision: 3,
        legs: Vec::new(),
    })
}

fn records(count: u64) -> Back {
    let change = |number: u64| Change {
        revision: number,
        state: RecordState::Removed(RecordKey::Terminal(Number::cut(&number.to_string()))),
    };
    Back::answer(MeetingRecords { leg: leg(1), changes: (0..count).map(change).collect() })
}

fn meeting_end(records: u32) -> Back {
    Back::answer(MeetingEnd { meeting: meeting(1), records })
}

fn event(epoch: u64, sequence: u64) -> Back {
    Back::answer(ClientEvent {
        epoch: Epoch(epoch),
        sequence,
        leg: leg(1),
        kind: EventKind::Changed,
        state: MeetingState::InMeeting,
        cause: EndCause::None,
        revision: sequence,
        changes: Vec::new(),
    })
}

fn snapshot(epoch: u64, sequence: u64, meetings: u16) -> Vec<Back> {
    vec![
        Back::answer(Subscribed { epoch: Epoch(epoch), sequence }),
        page(0..meetings),
        list_end(meetings, meetings.into(), true),
    ]
}

async fn client(script: impl FnMut(&Heard) -> Vec<Back> + Send + 'static) -> (FakeScheduler, Client) {
    let mut script = script;
    let fake = FakeScheduler::start(move |heard| match &heard.packet.message {
        Message::Hello(_) => welcome(),
        _ => script(heard),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    (fake, client)
}

async fn next(subscription: &mut Subscription) -> Notice {
    timeout(DEADLINE, subscription.next()).await.expect("a notice within the deadline").expect("the stream goes on")
}

fn sequence_of(notice: &Notice) -> Option<u64> {
    match notice {
        Notice::Event(event) => Some(event.sequence),
        Notice::Snapshot { .. } => None,
    }
}

#[tokio::test]
async fn a_list_is_read_page_by_page_and_a_page_with_a_gap_again() {
    let mut broken = true;
    let (fake, client) = client(move |heard| match &heard.packet.message {
        Message::List(list) if list.after == MeetingId::default() => {
            vec![page(1..20), page(20..31), list_end(30, 30, false)]
        }
        Message::List(_) if std::mem::take(&mut broken) => vec![page(31..35), list_end(40, 10, true)],
        Message::List(_) => vec![page(31..35), page(35..41), list_end(40, 10, true)],
        _ => Vec::new(),
    })
    .await;
    let meetings: Vec<_> = client.list().await.unwrap().into_iter().map(|entry| entry.meeting).collect();
    assert_eq!(meetings, (1..41).map(meeting).collect::<Vec<_>>());
    assert_eq!(fake.heard().iter().filter(|it| matches!(it.packet.message, Message::List(_))).count(), 3);
}

#[tokio::test]
async fn rule_17_a_list_without_end_is_given_up() {
    let (_, client) = client(|heard| match &heard.packet.message {
        Message::List(_) => vec![page(1..2), list_end(1, 1, false)],
        _ => Vec::new(),
    })
    .await;
    let error = client.list().await.unwrap_err();
    assert!(matches!(&error, ClientError::Broken(text) if text.contains("without end")), "{error}");
}

#[tokio::test]
async fn an_answer_that_always_has_a_gap_is_given_up_after_a_few_times() {
    let (fake, client) = client(|heard| match &heard.packet.message {
        Message::Get(_) => vec![info(false, false), records(2), meeting_end(3)],
        _ => Vec::new(),
    })
    .await;
    let error = client.get(meeting(1)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Broken(text) if text.contains("gap")), "{error}");
    assert_eq!(fake.heard().iter().filter(|it| matches!(it.packet.message, Message::Get(_))).count(), 4);
}

#[tokio::test]
async fn a_meeting_under_recovery_is_answered_at_once_and_updated_later() {
    let (fake, client) = client(|heard| match &heard.packet.message {
        Message::Get(_) => vec![
            info(true, false),
            records(1),
            meeting_end(1),
            info(false, true),
            records(5),
            records(2),
            meeting_end(7),
        ],
        _ => Vec::new(),
    })
    .await;
    let got = client.get(meeting(1)).await.unwrap();
    assert!(got.view.info.recovering);
    assert_eq!(got.view.records.len(), 1);
    let update = got.update.expect("an update is promised").wait(DEADLINE).await.unwrap();
    assert!(update.info.update && !update.info.recovering);
    assert_eq!(update.records.len(), 7);
    assert_eq!(fake.heard().iter().filter(|it| matches!(it.packet.message, Message::Get(_))).count(), 1);
}

#[tokio::test]
async fn a_promised_update_survives_the_schedulers_restart() {
    let (_, client) = client(|heard| match (&heard.packet.message, heard.connection) {
        (Message::Get(_), 1) => vec![info(true, false), meeting_end(0), Back::Close],
        (Message::Get(_), _) => vec![info(false, false), records(2), meeting_end(2)],
        _ => Vec::new(),
    })
    .await;
    let got = client.get(meeting(1)).await.unwrap();
    let update = got.update.expect("an update is promised").wait(DEADLINE).await.unwrap();
    assert_eq!(update.records.len(), 2);
}

#[tokio::test]
async fn a_meeting_that_is_not_known_is_refused() {
    let (_, client) = client(|heard| match &heard.packet.message {
        Message::Get(_) => failure(ErrorCode::UNKNOWN_MEETING),
        _ => Vec::new(),
    })
    .await;
    let error = client.get(meeting(1)).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(it) if it.code == ErrorCode::UNKNOWN_MEETING), "{error}");
}

#[tokio::test]
async fn rule_15_a_subscription_is_a_snapshot_and_then_every_event_once_in_order() {
    let (_, client) = client(|heard| match &heard.packet.message {
        Message::Subscribe(_) => {
            let mut back = snapshot(1, 10, 3);
            // An event that was sent before the snapshot was whole follows it; a doubled one is dropped.
            back.insert(1, event(1, 11));
            back.extend([event(1, 11), event(1, 12), event(1, 13)]);
            back
        }
        _ => Vec::new(),
    })
    .await;
    let mut subscription = client.subscribe(None).await.unwrap();
    assert!(
        matches!(next(&mut subscription).await, Notice::Snapshot { epoch: Epoch(1), meetings } if meetings.len() == 3)
    );
    for sequence in 11..=13 {
        assert_eq!(sequence_of(&next(&mut subscription).await), Some(sequence));
    }
}

#[tokio::test]
async fn a_client_has_one_subscription_at_a_time_and_a_dropped_one_makes_room() {
    let (_fake, client) = client(|heard| match &heard.packet.message {
        Message::Subscribe(_) => snapshot(1, 10, 1),
        _ => Vec::new(),
    })
    .await;
    let mut first = client.subscribe(None).await.unwrap();
    next(&mut first).await;
    let refused = client.subscribe(None).await.unwrap_err();
    assert!(matches!(refused, remeet::cms::client::ClientError::NotNow(_)), "{refused:?}");
    drop(first);
    let mut second = client.subscribe(None).await.unwrap();
    assert!(matches!(next(&mut second).await, Notice::Snapshot { .. }));
}

#[tokio::test]
async fn rule_15_a_gap_or_a_reset_brings_a_new_snapshot_first() {
    let mut round = 0;
    let (_, client) = client(move |heard| match &heard.packet.message {
        Message::Subscribe(_) => {
            round += 1;
            let mut back = snapshot(1, 100 * round, 1);
            match round {
                // 202 is missing: what follows it must not be told.
                1 => back.extend([event(1, 101), event(1, 103), event(1, 104)]),
                _ => {
                    // Still on its way when the new snapshot was asked for: no gap of the new stream.
                    back.insert(0, event(1, 150));
                    back.push(event(1, 201));
                    back.push(Back::answer(Reset { epoch: Epoch(1), sequence: 300 }));
                    back.extend([page(0..2), list_end(2, 2, true), event(1, 301)]);
                }
            }
            back
        }
        _ => Vec::new(),
    })
    .await;
    let mut subscription = client.subscribe(None).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..6 {
        told.push(sequence_of(&next(&mut subscription).await));
    }
    assert_eq!(told, [None, Some(101), None, Some(201), None, Some(301)]);
}

#[tokio::test]
async fn rule_4_events_of_a_lower_epoch_are_dropped() {
    let (_, client) = client(|heard| match &heard.packet.message {
        Message::Subscribe(_) => {
            let mut back = snapshot(4, 0, 1);
            back.extend([event(4, 1), event(3, 2), event(5, 3), event(4, 4), event(5, 5)]);
            back
        }
        _ => Vec::new(),
    })
    .await;
    let mut subscription = client.subscribe(None).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(sequence_of(&next(&mut subscription).await));
    }
    assert_eq!(told, [None, Some(1), Some(3), Some(5)]);
}

#[tokio::test]
async fn rule_4_a_scheduler_of_an_older_term_is_not_listened_to() {
    let (fake, client) = client(|heard| match (&heard.packet.message, heard.connection) {
        (Message::Subscribe(_), 1) => {
            let mut back = snapshot(4, 0, 1);
            back.push(Back::Close);
            back
        }
        (Message::Subscribe(_), 2) => snapshot(3, 0, 2),
        (Message::Subscribe(_), _) => snapshot(5, 0, 3),
        _ => Vec::new(),
    })
    .await;
    let mut subscription = client.subscribe(None).await.unwrap();
    let mut epochs = Vec::new();
    for _ in 0..2 {
        match next(&mut subscription).await {
            Notice::Snapshot { epoch, .. } => epochs.push(epoch.0),
            Notice::Event(event) => panic!("{event:?}"),
        }
    }
    assert_eq!(epochs, [4, 5]);
    assert!(fake.heard().iter().any(|it| it.connection == 3));
}

#[tokio::test]
async fn rule_17_a_subscriber_that_does_not_read_gets_a_new_snapshot_and_holds_nobody_up() {
    let mut round = 0;
    let (_, client) = client(move |heard| match &heard.packet.message {
        Message::Subscribe(_) => {
            round += 1;
            let mut back = snapshot(1, 0, round);
            if round == 1 {
                back.extend((1..=3_000).map(|sequence| event(1, sequence)));
            }
            back
        }
        Message::List(_) => vec![list_end(0, 0, true)],
        _ => Vec::new(),
    })
    .await;
    let mut subscription = client.subscribe(None).await.unwrap();
    // Answered although 3,000 events came before it and nobody reads them.
    assert!(client.list().await.unwrap().is_empty());
    let mut expected = 0;
    loop {
        match next(&mut subscription).await {
            Notice::Snapshot { meetings, .. } if meetings.len() == 2 => break,
            Notice::Snapshot { .. } => {}
            Notice::Event(event) => {
                expected += 1;
                assert_eq!(event.sequence, expected);
            }
        }
    }
    assert!(expected < 3_000, "something was dropped, and said to be");
}
