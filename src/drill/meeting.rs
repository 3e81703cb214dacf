//! A meeting as its client knows it: what was commanded and answered, and what must therefore be true.
//!
//! Every setting has a value that is never given a second time, so that a command that ran twice, late, or not at
//! all shows: a later value would be missing.

use crate::simulator::LegDump;
use crate::stage::meetings::call_terminal;
use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{
    ClientAnswer, ClientOp, EndCause, RemoveTerminal, SetDecode, SetExtra, SetRole, TerminalRole, WindowSetting,
};
use remeet_protocol::record::{DisplayMode, EntryKey, LeaveReason, MediaCodec, Number, Record};
use remeet_protocol::wire::{Blob, Text};
use remeet_protocol::{ErrorCode, LegId, MeetingId};
use std::collections::{BTreeMap, BTreeSet};

/// The one entry that clients set; servers' terminals tell other ones.
const ENTRY: &str = "drill";
/// Numbers of terminals that join by themselves begin with this, those that clients call never do.
const BY_ITSELF: char = '9';
/// Batches of commands until a client ends its meeting.
const LIFE: std::ops::Range<u32> = 20..120;

/// See the module's page.
#[derive(Debug, Clone)]
pub(crate) struct Meeting {
    pub(crate) id: MeetingId,
    /// Its terminals leave and decode by themselves, its server may end it: what clients set may be gone.
    pub(crate) lively: bool,
    place: usize,
    terminals: BTreeMap<Number, Terminal>,
    called: u32,
    chair: Number,
    first_speaker: Number,
    batches_left: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Terminal {
    /// Display mode, output, windows; none until it is set.
    decode: Option<(DisplayMode, Number, usize)>,
    entry: Option<Blob<512>>,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The meeting goes on.
    GoesOn,
    /// It has ended, in one of these ways.
    Over(BTreeSet<EndCause>),
    /// An answer that may not come.
    Wrong(String),
}

impl Meeting {
    pub(crate) fn new(id: MeetingId, place: usize, lively: bool, rng: &mut ChaCha8Rng) -> Self {
        Self {
            id,
            lively,
            place,
            terminals: BTreeMap::new(),
            called: 0,
            chair: Number::default(),
            first_speaker: Number::default(),
            batches_left: rng.random_range(LIFE),
        }
    }

    pub(crate) fn leg(&self) -> LegId {
        LegId { meeting: self.id, leg: 0 }
    }

    /// Commands that are given at the same time: no two of them have to do with the same thing.
    pub(crate) fn next(&mut self, terminals_max: usize, rng: &mut ChaCha8Rng) -> Vec<ClientOp> {
        let Some(left) = self.batches_left.checked_sub(1) else { return vec![ClientOp::End] };
        self.batches_left = left;
        if self.terminals.len() < 2 {
            return vec![self.call(), self.call()];
        }
        let some = |rng: &mut ChaCha8Rng| self.terminals.keys().choose(rng).cloned().unwrap_or_default();
        match rng.random_range(0..10) {
            0 => {
                let role = [TerminalRole::Chair, TerminalRole::FirstSpeaker, TerminalRole::Participant];
                let role = role.into_iter().choose(rng).unwrap_or(TerminalRole::Chair);
                vec![ClientOp::SetRole(SetRole { number: some(rng), role })]
            }
            1 | 2 if self.terminals.len() > 2 => {
                let removed = some(rng);
                let other = self.terminals.keys().filter(|number| **number != removed).choose(rng).cloned();
                let gone = RemoveTerminal { number: removed, reason: LeaveReason::Removed };
                vec![ClientOp::RemoveTerminal(gone), set_entry(other.unwrap_or_default(), rng)]
            }
            _ => {
                let mut each: Vec<Number> = self.terminals.keys().cloned().collect();
                each.shuffle(rng);
                let count = rng.random_range(1..=2);
                let set = |number: Number, rng: &mut ChaCha8Rng| {
                    if rng.random() { set_entry(number, rng) } else { set_decode(number, rng) }
                };
                let mut ops: Vec<ClientOp> = each.into_iter().take(count).map(|number| set(number, rng)).collect();
                if self.terminals.len() < terminals_max && rng.random_bool(0.4) {
                    ops.push(self.call());
                }
                ops
            }
        }
    }

    fn call(&mut self) -> ClientOp {
        self.called += 1;
        let number = Text::cut(&format!("{:06}{:04}", self.place, self.called));
        call_terminal(number, &format!("Raum {} ✓", self.called))
    }

    /// Takes an answer in. `ends` are the ways in which the meeting may have ended without its client.
    pub(crate) fn answered(&mut self, op: &ClientOp, answer: &ClientAnswer, ends: BTreeSet<EndCause>) -> Meaning {
        let code = answer.code;
        let wrong = || Meaning::Wrong(format!("{} was answered {code}: {}", op.name(), answer.detail));
        match code {
            ErrorCode::OK => {}
            ErrorCode::ENDED | ErrorCode::UNKNOWN_MEETING if !ends.is_empty() => return Meaning::Over(ends),
            ErrorCode::UNKNOWN_TERMINAL if self.lively => {
                if let Some(number) = terminal_of(op) {
                    self.terminals.remove(number);
                }
                return Meaning::GoesOn;
            }
            _ => return wrong(),
        }
        match op {
            // Who creates a meeting is its first chair.
            ClientOp::Create(op) => self.chair = op.creator.clone(),
            ClientOp::Start | ClientOp::AddLeg(_) => {}
            ClientOp::End => {
                let mut ends = ends;
                ends.insert(EndCause::Commanded);
                return Meaning::Over(ends);
            }
            ClientOp::AddTerminal(op) => {
                self.terminals.insert(op.number.clone(), Terminal::default());
            }
            ClientOp::RemoveTerminal(op) => {
                self.terminals.remove(&op.number);
                self.without_roles(&op.number);
            }
            ClientOp::SetRole(op) => match op.role {
                TerminalRole::Chair => self.chair = op.number.clone(),
                TerminalRole::FirstSpeaker => self.first_speaker = op.number.clone(),
                _ => self.without_roles(&op.number),
            },
            ClientOp::SetDecode(op) => {
                if let Some(terminal) = self.terminals.get_mut(&op.number) {
                    terminal.decode = Some((op.display_mode, op.output.clone(), op.windows.len()));
                }
            }
            ClientOp::SetExtra(op) => {
                if let Some(terminal) = self.terminals.get_mut(&op.number) {
                    terminal.entry = op.value.clone();
                }
            }
            ClientOp::Mark(_) | ClientOp::Adopt(_) => return wrong(),
        }
        Meaning::GoesOn
    }

    fn without_roles(&mut self, number: &Number) {
        for role in [&mut self.chair, &mut self.first_speaker] {
            if role == number {
                *role = Number::default();
            }
        }
    }

    /// Where the server's truth is not what the answered commands have made.
    pub(crate) fn differences(&self, truth: &LegDump) -> Vec<String> {
        if self.lively {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut seen: BTreeMap<Number, Terminal> = BTreeMap::new();
        let mut windows: BTreeMap<Number, usize> = BTreeMap::new();
        let mut entries: BTreeMap<Number, Blob<512>> = BTreeMap::new();
        for held in &truth.records {
            match &held.record {
                Record::Leg(row) => {
                    for (role, wanted, stands) in
                        [("chair", &self.chair, &row.chair), ("first speaker", &self.first_speaker, &row.first_speaker)]
                    {
                        if wanted != stands {
                            found.push(format!("{role}: commanded {wanted:?}, its server has {stands:?}"));
                        }
                    }
                }
                Record::Terminal(row) if !row.number.as_str().starts_with(BY_ITSELF) => {
                    let decode = row.decode.as_ref().map(|decode| (decode.display_mode, decode.output.clone(), 0));
                    seen.insert(row.number.clone(), Terminal { decode, entry: None });
                }
                Record::Window(row) => *windows.entry(row.terminal.clone()).or_default() += 1,
                Record::Entry(row) if row.key.as_str() == ENTRY => {
                    entries.insert(row.terminal.clone(), row.value.clone());
                }
                Record::Terminal(_) | Record::Entry(_) => {}
            }
        }
        for (number, terminal) in &mut seen {
            terminal.entry = entries.remove(number);
            if let Some((_, _, count)) = &mut terminal.decode {
                *count = windows.get(number).copied().unwrap_or(0);
            }
        }
        for (number, wanted) in &self.terminals {
            match seen.remove(number) {
                None => found.push(format!("terminal {number} was added, its server does not have it")),
                Some(stands) => {
                    if wanted.entry != stands.entry {
                        found.push(format!(
                            "terminal {number}, entry {ENTRY}: commanded {:?}, its server has {:?}",
                            wanted.entry, stands.entry
                        ));
                    }
                    if wanted.decode.is_some() && wanted.decode != stands.decode {
                        found.push(format!(
                            "terminal {number}, decode: commanded {:?}, its server has {:?}",
                            wanted.decode, stands.decode
                        ));
                    }
                }
            }
        }
        let beyond = seen.keys().map(|number| format!("terminal {number} was removed, or never added, and is there"));
        found.extend(beyond);
        found
    }
}

fn terminal_of(op: &ClientOp) -> Option<&Number> {
    match op {
        ClientOp::RemoveTerminal(op) => Some(&op.number),
        ClientOp::SetRole(op) => Some(&op.number),
        ClientOp::SetDecode(op) => Some(&op.number),
        ClientOp::SetExtra(op) => Some(&op.number),
        _ => None,
    }
}

fn set_entry(number: Number, rng: &mut ChaCha8Rng) -> ClientOp {
    let value: [u8; 12] = rng.random();
    let value = (!rng.random_bool(0.1)).then(|| Blob::new(value.to_vec()).unwrap_or_default());
    ClientOp::SetExtra(SetExtra { number, key: EntryKey::cut(ENTRY), value })
}

fn set_decode(number: Number, rng: &mut ChaCha8Rng) -> ClientOp {
    let windows = (0..rng.random_range(1..=4_u8)).map(|window| WindowSetting {
        window,
        source: number.clone(),
        channel: 0,
        video: true,
        audio: window == 0,
    });
    let windows = windows.collect();
    ClientOp::SetDecode(SetDecode {
        number,
        display_mode: DisplayMode::from(rng.random_range(0..=5_u8)),
        output: Text::cut(&format!("D{:016x}", rng.random::<u64>())),
        codec: MediaCodec::H265,
        windows,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::plan::dice;
    use super::*;
    use crate::simulator::RecordDump;
    use crate::stage::meetings::create;
    use remeet_protocol::record::{EntryRow, LegRow, Mark, TerminalRow};
    use remeet_protocol::{Handle, ServerId, Token};

    fn answer(code: ErrorCode) -> ClientAnswer {
        let (detail, meeting) = (Text::default(), MeetingId::default());
        ClientAnswer { instance: 1, number: 1, code, retry_after_ms: 0, detail, meeting }
    }

    fn meeting(lively: bool) -> Meeting {
        Meeting::new(MeetingId::default(), 3, lively, &mut dice(1, 1, 1))
    }

    fn add(number: &str) -> ClientOp {
        call_terminal(Text::cut(number), "room")
    }

    fn tell(number: &str, value: &[u8]) -> ClientOp {
        let value = Some(Blob::new(value.to_vec()).unwrap());
        ClientOp::SetExtra(SetExtra { number: Text::cut(number), key: Text::cut(ENTRY), value })
    }

    fn terminal(number: &str) -> Record {
        Record::Terminal(TerminalRow {
            number: Text::cut(number),
            home_domain: Default::default(),
            name: Text::default(),
            online: true,
            in_meeting: true,
            joined_at_ms: 1,
            left_at_ms: 0,
            left_because: LeaveReason::None,
            business: None,
            decode: None,
            extra_version: None,
        })
    }

    fn entry(number: &str, value: &[u8]) -> Record {
        let value = Blob::new(value.to_vec()).unwrap();
        Record::Entry(EntryRow { terminal: Text::cut(number), key: Text::cut(ENTRY), value })
    }

    fn truth(chair: &str, records: Vec<Record>) -> LegDump {
        let row = Record::Leg(LegRow {
            number: Text::default(),
            title: Text::default(),
            creator: Text::default(),
            creator_name: Text::default(),
            chair: Text::cut(chair),
            first_speaker: Text::default(),
            second_speaker: Text::default(),
            started_at_ms: 1,
        });
        let records = std::iter::once(row).chain(records).map(|record| RecordDump { revision: 1, record }).collect();
        LegDump {
            handle: Handle(1),
            leg: LegId { meeting: MeetingId::default(), leg: 0 },
            state: remeet_protocol::message::LegState::Live,
            cause: EndCause::None,
            token: Token::default(),
            generation: 1,
            intent: 1,
            mark: Mark::default(),
            terminals: 1,
            records,
        }
    }

    /// Created by "500001", with one terminal that was told two values.
    fn commanded() -> Meeting {
        let mut meeting = meeting(false);
        let create = create(meeting.id, ServerId(1), 3, 1);
        for op in [create, ClientOp::Start, add("01"), tell("01", b"one"), tell("01", b"two")] {
            assert_eq!(meeting.answered(&op, &answer(ErrorCode::OK), BTreeSet::new()), Meaning::GoesOn);
        }
        meeting
    }

    #[test]
    fn what_was_answered_and_is_true_is_no_difference_and_terminals_may_join_by_themselves() {
        let truth = truth("500001", vec![terminal("01"), terminal("9123"), entry("01", b"two")]);
        assert_eq!(commanded().differences(&truth), [""; 0]);
    }

    #[test]
    fn a_command_that_was_lost_ran_late_or_ran_again_is_a_difference() {
        let found = |chair: &str, records| commanded().differences(&truth(chair, records)).join("; ");
        assert!(found("500001", Vec::new()).contains("was added, its server does not have it"));
        assert!(found("500001", vec![terminal("01"), entry("01", b"one")]).contains("entry drill"));
        assert!(found("500001", vec![terminal("01"), entry("01", b"two"), terminal("02")]).contains("was removed"));
        assert!(found("01", vec![terminal("01"), entry("01", b"two")]).contains("chair"));
    }

    #[test]
    fn an_end_is_believed_only_from_its_client_or_if_something_may_have_ended_it() {
        let lost = BTreeSet::from([EndCause::Lost]);
        let both = BTreeSet::from([EndCause::Lost, EndCause::Commanded]);
        let by =
            |op: ClientOp, code, ends: &BTreeSet<EndCause>| meeting(false).answered(&op, &answer(code), ends.clone());
        assert!(matches!(by(add("01"), ErrorCode::ENDED, &BTreeSet::new()), Meaning::Wrong(_)));
        assert_eq!(by(add("01"), ErrorCode::ENDED, &lost), Meaning::Over(lost.clone()));
        assert_eq!(by(ClientOp::End, ErrorCode::OK, &lost), Meaning::Over(both));
        for code in [ErrorCode::TOO_OLD, ErrorCode::EXISTS, ErrorCode::INTERNAL, ErrorCode::WRONG_STATE] {
            assert!(matches!(by(add("01"), code, &lost), Meaning::Wrong(_)), "{code}");
        }
    }

    #[test]
    fn terminals_of_a_lively_meeting_may_have_left() {
        let mut meeting = meeting(true);
        meeting.answered(&add("01"), &answer(ErrorCode::OK), BTreeSet::new());
        let gone = answer(ErrorCode::UNKNOWN_TERMINAL);
        assert_eq!(meeting.answered(&tell("01", b"one"), &gone, BTreeSet::new()), Meaning::GoesOn);
        assert!(meeting.terminals.is_empty());
        assert!(matches!(commanded().answered(&tell("01", b"x"), &gone, BTreeSet::new()), Meaning::Wrong(_)));
    }
}
