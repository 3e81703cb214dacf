//! What fits a packet: the rooms and bounds that the messages name are right to the byte.

use crate::any::Any;
use crate::{body_of, config};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use remeet_protocol::Message;
use remeet_protocol::ids::{Handle, LegId, Secret};
use remeet_protocol::message::*;
use remeet_protocol::packet::BODY_BYTES_MAX;
use remeet_protocol::record::{Change, DisplayMode, EntryRow, LegRow, MediaCodec, Record, RecordState};
use remeet_protocol::wire::{Blob, Text, Wire};

/// The room that a message names is what its other fields leave of a body.
#[test]
fn a_full_list_fills_its_room_and_no_more() {
    let mut runner = TestRunner::new(config());
    let strategy = vec(Change::any(), 40..60);
    runner
        .run(&strategy, |changes| {
            for (message, room) in with_rooms(&changes) {
                let rest = body_of(&message).len() - changes.encoded_len();
                prop_assert_eq!(rest + room, BODY_BYTES_MAX, "{}", message.name());
            }
            Ok(())
        })
        .unwrap();
}

/// Messages without a list of rows fit a packet however long their texts are: nobody who sends one needs to
/// split it. So does one change, however large, beside the other fields of its message.
#[test]
fn the_longest_texts_fit() {
    let number = || Text::new("n".repeat(32)).unwrap();
    let name = || Text::new("m".repeat(64)).unwrap();
    let title = || Text::new("t".repeat(256)).unwrap();
    let leg = LegId { meeting: Default::default(), leg: 0 };
    let row = LegRow {
        number: number(),
        title: title(),
        creator: number(),
        creator_name: name(),
        chair: number(),
        first_speaker: number(),
        second_speaker: number(),
        started_at_ms: 0,
    };
    let window = WindowSetting { window: 0, source: number(), channel: 0, video: true, audio: true };
    let decode = SetDecode {
        number: number(),
        display_mode: DisplayMode::Single,
        output: number(),
        codec: MediaCodec::None,
        windows: vec![window; WINDOWS_MAX],
    };
    let value = Blob::new(vec![0; 512]).unwrap();
    let extra = SetExtra { number: number(), key: name(), value: Some(value.clone()) };
    let start = Start { secret: Secret::new([0; 16]), generation: 0, row };
    for op in [Op::Start(start), Op::SetDecode(decode.clone()), Op::SetExtra(extra.clone())] {
        assert!(Command { leg, handle: Handle(0), intent: 0, op }.encoded_len() <= BODY_BYTES_MAX);
    }
    for op in [ClientOp::SetDecode(decode), ClientOp::SetExtra(extra)] {
        let command = ClientCommand { instance: 0, number: 0, meeting: Default::default(), op };
        assert!(command.encoded_len() <= BODY_BYTES_MAX);
    }
    let entry = Record::Entry(EntryRow { terminal: number(), key: name(), value });
    let largest = vec![Change { revision: 0, state: RecordState::Present(entry) }];
    for room in [Event::CHANGES_ROOM, PullPage::CHANGES_ROOM, MeetingRecords::CHANGES_ROOM, ClientEvent::CHANGES_ROOM] {
        assert!(largest.encoded_len() <= room);
    }
    let mut runner = TestRunner::deterministic();
    let claim = sample::<TakeoverClaim>(&mut runner);
    let result = sample::<TakeoverResult>(&mut runner);
    let takeover = Takeover { claims: vec![claim; Takeover::CLAIMS_MAX] };
    let answer = |results| TakeoverAnswer { boot: Default::default(), table_revision: 0, results };
    assert!(takeover.encoded_len() <= BODY_BYTES_MAX);
    assert!(answer(vec![result.clone(); Takeover::CLAIMS_MAX]).encoded_len() <= BODY_BYTES_MAX);
    assert!(answer(vec![result; Takeover::CLAIMS_MAX + 1]).encoded_len() > BODY_BYTES_MAX, "CLAIMS_MAX may grow");
}

fn with_rooms(changes: &[Change]) -> Vec<(Message, usize)> {
    let changes = changes.to_vec();
    let mut runner = TestRunner::deterministic();
    let event = sample::<Event>(&mut runner);
    let page = sample::<PullPage>(&mut runner);
    let records = sample::<MeetingRecords>(&mut runner);
    let client_event = sample::<ClientEvent>(&mut runner);
    vec![
        (Event { changes: changes.clone(), ..event }.into(), Event::CHANGES_ROOM),
        (PullPage { changes: changes.clone(), ..page }.into(), PullPage::CHANGES_ROOM),
        (MeetingRecords { changes: changes.clone(), ..records }.into(), MeetingRecords::CHANGES_ROOM),
        (ClientEvent { changes, ..client_event }.into(), ClientEvent::CHANGES_ROOM),
    ]
}

fn sample<T: Any>(runner: &mut TestRunner) -> T {
    T::any().new_tree(runner).unwrap().current()
}
