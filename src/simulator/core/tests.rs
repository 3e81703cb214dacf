//! Random commands, life and restarts against one core: digests, event chains and restored state must
//! always agree with what is recomputed.

#![allow(clippy::unwrap_used)]

use super::script::{Kind, Script};
use super::*;
use proptest::prelude::*;
use remeet_protocol::message::*;
use remeet_protocol::packet::VERSION;
use remeet_protocol::record::{
    DisplayMode, LeaveReason, LegRow, Mark, MediaCodec, Number, Record, RecordKey, RecordState,
};
use remeet_protocol::wire::Blob;
use remeet_protocol::{Epoch, Handle, Holder, LegId, MeetingId, Secret};
use std::collections::HashMap;

const PEER: ConnectionId = ConnectionId(1);

fn settings() -> Settings {
    Settings {
        server: ServerId(7),
        domain: DomainId(1),
        scheduler_domain: DomainId(1),
        name: Text::cut("under test"),
        permit_adopt: true,
        event_queue: 40,
        removals: 5,
        keep_alive_ms: 5000,
        journal: true,
    }
}

/// A core with one attached scheduler, and the state file that its driver would have.
struct Bench {
    core: Core,
    state: Vec<u8>,
    session: u64,
    request: u64,
    now_ms: u64,
    events: Vec<Event>,
    intents: HashMap<u8, u64>,
}

impl Bench {
    fn new() -> Self {
        let core = Core::new(settings(), BootId::from_bytes([3; 16]), 11);
        let state = core.snapshot().to_vec();
        let mut bench =
            Self { core, state, session: 0, request: 0, now_ms: 1000, events: Vec::new(), intents: HashMap::new() };
        bench.attach();
        bench
    }

    fn attach(&mut self) {
        self.core.connect(PEER);
        let hello = Hello {
            role: Role::Scheduler,
            id: 1,
            name: Text::cut("s"),
            instance: Holder::default(),
            version_min: VERSION,
            version_max: VERSION,
        };
        self.ask(hello.into());
        let token = Token { epoch: Epoch(1), holder: Holder::from_bytes([1; 16]) };
        let answers = self.ask(Attach { token }.into());
        let Some(Message::Attached(attached)) = answers.first() else { panic!("{answers:?}") };
        self.session = attached.session;
    }

    fn ask(&mut self, message: Message) -> Vec<Message> {
        self.request += 1;
        let header = Header { session: self.session, request: self.request, ..Header::default() };
        let (destination, source) = (Address::default(), Address::scheduler(DomainId(1)));
        self.core.receive(self.now_ms, PEER, Packet { destination, source, header, message });
        self.settle()
    }

    /// Does what the driver does: the journal to the file, the outputs to the peer.
    fn settle(&mut self) -> Vec<Message> {
        self.state.extend_from_slice(&self.core.take_journal().0);
        let mut answers = Vec::new();
        for output in self.core.take_outputs() {
            let Output::Send(_, packet) = output else { panic!("closed") };
            match packet.message {
                Message::Event(event) => self.events.push(event),
                Message::EventGap(_) => {}
                message => answers.push(message),
            }
        }
        answers
    }

    fn command(&mut self, leg: u8, op: Op) -> ErrorCode {
        let intent = self.intents.entry(leg).or_default();
        *intent += 1;
        let command = Command { leg: leg_id(leg), handle: Handle(0), intent: *intent, op };
        match self.ask(command.into()).pop() {
            Some(Message::CommandAnswer(answer)) => answer.code,
            other => panic!("{other:?}"),
        }
    }
}

fn leg_id(leg: u8) -> LegId {
    LegId { meeting: MeetingId::from_bytes([leg; 16]), leg: 0 }
}

fn number(terminal: u8) -> Number {
    Text::cut(&format!("90{terminal}"))
}

fn start(secret: u8) -> Op {
    Op::Start(Start {
        secret: Secret::new([secret; 16]),
        generation: 1,
        row: LegRow {
            number: number(99),
            title: Text::cut("Weekly"),
            creator: number(98),
            creator_name: Text::cut("Somebody"),
            chair: Number::default(),
            first_speaker: Number::default(),
            second_speaker: Number::default(),
            started_at_ms: 0,
        },
    })
}

#[derive(Debug, Clone)]
enum Step {
    Start(u8),
    Add(u8, u8),
    Remove(u8, u8),
    Role(u8, u8, u8),
    Decode(u8, u8, Vec<u8>),
    Extra(u8, u8, u8, Option<u8>),
    End(u8),
    EndByServer(u8),
    Script(u64),
    Foreign(u16),
    AckAll,
    DropRemovals,
    Overflow,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let leg = 0..3_u8;
    let terminal = 0..4_u8;
    prop_oneof![
        3 => leg.clone().prop_map(Step::Start),
        6 => (leg.clone(), terminal.clone()).prop_map(|(l, t)| Step::Add(l, t)),
        3 => (leg.clone(), terminal.clone()).prop_map(|(l, t)| Step::Remove(l, t)),
        2 => (leg.clone(), terminal.clone(), 1..=4_u8).prop_map(|(l, t, r)| Step::Role(l, t, r)),
        4 => (leg.clone(), terminal.clone(), prop::collection::vec(0..20_u8, 0..20)).prop_map(|(l, t, w)| Step::Decode(l, t, w)),
        4 => (leg.clone(), terminal, 0..5_u8, any::<Option<u8>>()).prop_map(|(l, t, k, v)| Step::Extra(l, t, k, v)),
        1 => leg.clone().prop_map(Step::End),
        1 => leg.prop_map(Step::EndByServer),
        2 => any::<u64>().prop_map(Step::Script),
        1 => (0..3_u16).prop_map(Step::Foreign),
        3 => Just(Step::AckAll),
        1 => Just(Step::DropRemovals),
        1 => Just(Step::Overflow),
        1 => Just(Step::Restart),
    ]
}

fn run(bench: &mut Bench, step: Step) {
    bench.now_ms += 1;
    match step {
        Step::Start(leg) => {
            bench.command(leg, start(leg));
        }
        Step::Add(leg, terminal) => {
            let name = Text::cut("terminal");
            let op = AddTerminal { number: number(terminal), home_domain: DomainId(1), name };
            bench.command(leg, Op::AddTerminal(op));
        }
        Step::Remove(leg, terminal) => {
            let op = RemoveTerminal { number: number(terminal), reason: LeaveReason::Removed };
            bench.command(leg, Op::RemoveTerminal(op));
        }
        Step::Role(leg, terminal, role) => {
            let op = SetRole { number: number(terminal), role: TerminalRole::from(role) };
            bench.command(leg, Op::SetRole(op));
        }
        Step::Decode(leg, terminal, windows) => {
            let setting = |window| WindowSetting { window, source: number(0), channel: 1, video: true, audio: false };
            let op = SetDecode {
                number: number(terminal),
                display_mode: DisplayMode::NineSplit,
                output: Text::cut("2"),
                codec: MediaCodec::H265,
                windows: windows.into_iter().map(setting).collect(),
            };
            bench.command(leg, Op::SetDecode(op));
        }
        Step::Extra(leg, terminal, key, value) => {
            let value = value.map(|value| Blob::new(vec![value; 3]).unwrap());
            let op = SetExtra { number: number(terminal), key: Text::cut(&format!("key{key}")), value };
            bench.command(leg, Op::SetExtra(op));
        }
        Step::End(leg) => {
            bench.command(leg, Op::End(End { cause: EndCause::Commanded }));
        }
        Step::EndByServer(leg) => {
            let _ = bench.core.end_leg(leg_id(leg));
        }
        Step::Script(seed) => {
            bench.core.change(bench.now_ms, &Script { seed, fraction: 0.7, meetings: None, kinds: Vec::new() });
        }
        Step::Foreign(terminals) => {
            bench.core.create_foreign(bench.now_ms, None, terminals).unwrap();
        }
        Step::AckAll => {
            if let Some(last) = bench.events.last() {
                let header = Header { session: bench.session, ..Header::default() };
                let message = EventAck { number: last.number }.into();
                let (destination, source) = (Address::default(), Address::default());
                bench.core.receive(bench.now_ms, PEER, Packet { destination, source, header, message });
            }
        }
        Step::DropRemovals => bench.core.drop_removals(),
        Step::Overflow => {
            bench.core.overflow_events();
        }
        Step::Restart => {
            bench.core = Core::restore(settings(), 11, &bench.state).unwrap();
            bench.state = bench.core.snapshot().to_vec();
            bench.session = 0;
            bench.attach();
        }
    }
    bench.settle();
}

fn check(bench: &Bench) {
    for leg in bench.core.table().legs() {
        if leg.is_live() {
            assert_eq!(leg.recomputed(), leg.head.mark, "incremental count and digest of {}", leg.head.id);
            assert_eq!(leg.roster().count(), usize::from(leg.terminals));
        }
        let present: Vec<u64> = leg.changes(0, u64::MAX, false).map(|change| change.revision).collect();
        assert!(present.is_sorted(), "changes come in order of revision");
        assert_eq!(present.len(), leg.records().count());
    }
    let events: Vec<_> = bench.core.events.items().cloned().collect();
    assert!(events.len() <= settings().event_queue + events::IN_FLIGHT_MAX, "the queue is bounded");
}

/// What a receiver makes of events: content by leg, rebuilt from the chain alone.
fn replay(events: &[Event]) {
    let mut legs: HashMap<Handle, (Mark, HashMap<RecordKey, Record>)> = HashMap::new();
    let mut last = 0;
    for event in events {
        if event.number <= last {
            continue; // Sent again after a restart.
        }
        let gap = event.number != last + 1;
        last = event.number;
        let (mark, records) = legs.entry(event.handle).or_default();
        if gap || event.previous != mark.revision {
            continue; // Behind a gap the leg would be pulled.
        }
        for change in &event.changes {
            assert_eq!(change.revision, mark.revision + 1, "each revision changes one record");
            mark.revision = change.revision;
            let old = match &change.state {
                RecordState::Present(record) => {
                    mark.count(record, true);
                    records.insert(record.key(), record.clone())
                }
                RecordState::Removed(key) => Some(records.remove(key).unwrap()),
            };
            if let Some(old) = old {
                mark.count(&old, false);
            }
        }
        assert_eq!(*mark, event.mark, "the event's mark is that of the content after it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn digests_chains_and_restored_state_agree_after_random_sequences(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut bench = Bench::new();
        for step in steps {
            run(&mut bench, step);
            check(&bench);
        }
        replay(&bench.events);
        let dump = bench.core.dump();
        let from_journal = Core::restore(settings(), 11, &bench.state).unwrap().dump();
        prop_assert_eq!(&from_journal.legs, &dump.legs, "snapshot and journal give the state back");
        prop_assert_eq!(from_journal.table_revision, dump.table_revision);
        let from_snapshot = Core::restore(settings(), 11, &bench.core.snapshot()).unwrap();
        prop_assert_eq!(from_snapshot.dump(), dump, "so does a snapshot alone");
        prop_assert_eq!(bench.core.stats().stale_executed, 0);
    }
}

#[test]
fn a_journal_cut_anywhere_gives_the_state_before_the_cut_and_never_fails() {
    let mut bench = Bench::new();
    for leg in 0..3 {
        bench.command(leg, start(leg));
    }
    run(&mut bench, Step::Add(1, 1));
    let whole = Core::restore(settings(), 11, &bench.state).unwrap();
    assert_eq!(whole.dump(), bench.core.dump());
    let mut revisions = Vec::new();
    for cut in bench.state.len() - 400..bench.state.len() {
        let restored = Core::restore(settings(), 11, &bench.state[..cut]).unwrap();
        revisions.push(restored.table().leg(Handle(2)).unwrap().head.mark.revision);
    }
    assert!(revisions.is_sorted() && revisions.first() == Some(&1), "{revisions:?}");
    assert_eq!(Core::restore(settings(), 11, b"something else").unwrap_err(), RestoreError::NoSnapshot);
    let mut damaged = bench.state.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let error = Core::restore(settings(), 11, &damaged).unwrap_err();
    assert!(matches!(error, RestoreError::Entry(_)), "{error:?}");
    let mut zeros = bench.state.clone();
    zeros.extend([0; 100]);
    assert_eq!(Core::restore(settings(), 11, &zeros).unwrap().dump(), bench.core.dump());
    let other = Settings { server: ServerId(8), ..settings() };
    assert!(matches!(Core::restore(other, 11, &bench.state), Err(RestoreError::OtherServer { .. })));
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let life = |seed| {
        let mut bench = Bench::new();
        for leg in 0..3 {
            bench.command(leg, start(leg));
            run(&mut bench, Step::Add(leg, 1));
        }
        let kinds = Kind::ALL.to_vec();
        bench.core.change(5000, &Script { seed, fraction: 1.0, meetings: None, kinds });
        bench.core.live(6000, 50);
        bench.settle();
        (bench.core.dump(), bench.events)
    };
    assert_eq!(life(4), life(4));
    assert_ne!(life(4), life(5));
}

#[test]
fn a_window_or_terminal_beyond_its_bound_is_refused_and_changes_nothing() {
    let mut bench = Bench::new();
    bench.command(1, start(1));
    run(&mut bench, Step::Add(1, 1));
    let mark = |bench: &Bench| bench.core.table().leg(Handle(1)).unwrap().head.mark;
    let before = mark(&bench);
    run(&mut bench, Step::Decode(1, 1, (0..17).collect()));
    assert_eq!(mark(&bench), before);
    for place in 0..ENTRIES_MAX + 5 {
        let op = SetExtra { number: number(1), key: Text::cut(&format!("k{place}")), value: Some(Blob::default()) };
        let code = bench.command(1, Op::SetExtra(op));
        // One entry came with the terminal.
        let expected = if place < ENTRIES_MAX - 1 { ErrorCode::OK } else { ErrorCode::TOO_MANY };
        assert_eq!(code, expected, "entry {place}");
        run(&mut bench, Step::AckAll);
    }
    assert_eq!(bench.core.table().leg(Handle(1)).unwrap().entries(&number(1)).count(), ENTRIES_MAX);
}
