//! A small autonomous server for the session's tests: right, but without content of its own. It shares
//! only the protocol crate with the session.

#![allow(clippy::unwrap_used)]

use crate::session_talk::{change, entry, leg, token};
use remeet::model::Moment;
use remeet_protocol::message::*;
use remeet_protocol::packet::Header;
use remeet_protocol::record::Mark;
use remeet_protocol::wire::{Text, pack};
use remeet_protocol::*;
use std::collections::{BTreeMap, VecDeque};

pub(crate) struct Server {
    pub(crate) id: ServerId,
    pub(crate) boot: BootId,
    /// Revisions of each leg's changes, by handle.
    pub(crate) legs: BTreeMap<u64, Vec<u64>>,
    /// Commands executed: leg's handle and intent, in order.
    pub(crate) executed: Vec<(u64, u64)>,
    /// Legs taken over.
    pub(crate) taken: BTreeMap<u64, Token>,
    /// Events not acknowledged.
    pub(crate) events: VecDeque<Event>,
    pub(crate) next_event: u64,
    attached: Option<(u64, Token)>,
    sessions: u64,
    cuts: BTreeMap<u64, Vec<u64>>,
    resend: Moment,
}

/// Pause between repeats of events on a link that loses them.
const RESEND_US: u64 = 100_000;
/// Entries of one answer and changes of one answer, whatever more is allowed: makes several pages.
const PAGE_ITEMS: usize = 60;

impl Server {
    pub(crate) fn new(id: ServerId, legs: u64) -> Self {
        let legs = (1..=legs).map(|handle| (handle, (1..=handle % 90 + 1).map(|n| n * 3).collect())).collect();
        Self {
            id,
            boot: BootId::from_bytes([2; 16]),
            legs,
            executed: Vec::new(),
            taken: BTreeMap::new(),
            events: VecDeque::new(),
            next_event: 1,
            attached: None,
            sessions: 100,
            cuts: BTreeMap::new(),
            resend: Moment(0),
        }
    }

    /// Something changed: an event.
    pub(crate) fn change(&mut self) {
        let number = self.next_event;
        self.next_event += 1;
        let mark = Mark { revision: number + 1, ..Mark::default() };
        let changes = vec![change(number + 1)];
        let event =
            Event { number, leg: leg(1), handle: Handle(1), previous: number, mark, ended: EndCause::None, changes };
        self.events.push_back(event);
    }

    /// The connection is gone: so is its session.
    pub(crate) fn disconnected(&mut self) {
        self.attached = None;
    }

    /// Events to send now.
    pub(crate) fn wake(&mut self, now: Moment) -> Vec<Packet> {
        let Some((session, _)) = self.attached else { return Vec::new() };
        if now < self.resend {
            return Vec::new();
        }
        self.resend = Moment(now.0 + RESEND_US);
        let header = Header { session, ..Header::default() };
        let events: Vec<Event> = self.events.iter().take(256).cloned().collect();
        events.into_iter().map(|event| self.packet(header, event.into())).collect()
    }

    fn packet(&self, header: Header, message: Message) -> Packet {
        Packet { destination: Address::scheduler(DomainId(1)), source: Address::server(self.id), header, message }
    }

    /// The answer to a packet.
    pub(crate) fn answer(&mut self, packet: Packet) -> Vec<Packet> {
        let session = packet.header.session;
        let messages = match packet.message {
            Message::Hello(_) => vec![Message::from(Welcome {
                role: Role::Server,
                version: 0x20,
                domain: DomainId(1),
                id: self.id.0,
                name: Text::cut("fake"),
                boot: self.boot,
                table_revision: 9,
                keep_alive_ms: 2_000,
            })],
            Message::KeepAlive(_) => vec![KeepAliveAnswer { table_revision: 9 }.into()],
            Message::Query(query) => self.query(&query),
            Message::Attach(attach) => vec![self.attach(attach.token)],
            Message::EventAck(ack) => {
                if self.attached.is_some_and(|(attached, _)| attached == session) {
                    self.events.retain(|event| event.number > ack.number);
                }
                return Vec::new();
            }
            _ if self.attached.is_none_or(|(attached, _)| attached != session) => {
                vec![Failure::new(ErrorCode::NOT_ATTACHED, "").into()]
            }
            Message::Takeover(takeover) => vec![self.takeover(takeover)],
            Message::Pull(pull) => self.pull(&pull),
            Message::Command(command) => vec![self.command(&command)],
            _ => return Vec::new(),
        };
        let last = messages.len() - 1;
        messages
            .into_iter()
            .enumerate()
            .map(|(index, message)| {
                let flags = if index == last { Flags::FINAL_ANSWER } else { Flags::ANSWER };
                let index = u32::try_from(index).unwrap();
                self.packet(
                    Header { flags, session, request: packet.header.request, index, ..Header::default() },
                    message,
                )
            })
            .collect()
    }

    fn attach(&mut self, asked: Token) -> Message {
        let session = match self.attached {
            Some((session, token)) if token == asked => session,
            _ => {
                self.sessions += 1;
                self.sessions
            }
        };
        self.attached = Some((session, asked));
        Attached { session, boot: self.boot, table_revision: 9 }.into()
    }

    fn query(&mut self, query: &Query) -> Vec<Message> {
        let cut = if query.cut == 0 { 1 + self.cuts.len() as u64 } else { query.cut };
        let members = self.cuts.entry(cut).or_insert_with(|| self.legs.keys().copied().collect());
        let rest: Vec<u64> = members.iter().copied().filter(|handle| *handle > query.after).collect();
        let total = members.len() as u64;
        let runs: Vec<Vec<InventoryEntry>> = pack(rest.iter().take(PAGE_ITEMS).map(|handle| entry(*handle)), 1_000)
            .into_iter()
            .take(query.packets_max.into())
            .collect();
        let page: Vec<u64> = runs.iter().flatten().map(|entry| entry.handle.0).collect();
        let end = InventoryEnd {
            cut,
            table_revision: 9,
            boot: self.boot,
            after: page.last().copied().unwrap_or(query.after),
            page_entries: u32::try_from(page.len()).unwrap(),
            complete: page.len() == rest.len(),
            total,
        };
        runs.into_iter().map(|entries| InventoryPage { cut, entries }.into()).chain([Message::from(end)]).collect()
    }

    fn takeover(&mut self, takeover: Takeover) -> Message {
        let token = self.attached.unwrap().1;
        let results = takeover
            .claims
            .into_iter()
            .map(|claim| {
                let known = self.legs.contains_key(&claim.handle.0);
                self.taken.extend(known.then_some((claim.handle.0, token)));
                TakeoverResult {
                    handle: claim.handle,
                    leg: claim.leg,
                    code: if known { ErrorCode::OK } else { ErrorCode::UNKNOWN_MEETING },
                    retry_after_ms: 0,
                    mark: Mark::default(),
                    intent: 0,
                }
            })
            .collect();
        TakeoverAnswer { boot: self.boot, table_revision: 9, results }.into()
    }

    fn pull(&mut self, pull: &Pull) -> Vec<Message> {
        let revisions = &self.legs[&pull.handle.0];
        let upto = if pull.upto == 0 { *revisions.last().unwrap() } else { pull.upto };
        let rest: Vec<u64> = revisions.iter().copied().filter(|r| *r > pull.after && *r <= upto).collect();
        let runs: Vec<Vec<Change>> = pack(rest.iter().take(PAGE_ITEMS).map(|revision| change(*revision)), 1_000)
            .into_iter()
            .take(pull.packets_max.into())
            .collect();
        let changes: usize = runs.iter().map(Vec::len).sum();
        let end = PullEnd {
            leg: pull.leg,
            full: pull.since == 0,
            upto: Mark { revision: upto, ..Mark::default() },
            after: runs.last().and_then(|run| run.last()).map_or(pull.after, |change| change.revision),
            page_changes: u32::try_from(changes).unwrap(),
            complete: changes == rest.len(),
        };
        runs.into_iter().map(|changes| PullPage { leg: pull.leg, changes }.into()).chain([Message::from(end)]).collect()
    }

    fn command(&mut self, command: &Command) -> Message {
        let done = (command.handle.0, command.intent);
        if !self.executed.contains(&done) {
            self.executed.push(done);
        }
        CommandAnswer {
            leg: command.leg,
            handle: command.handle,
            intent: command.intent,
            code: ErrorCode::OK,
            detail: Text::default(),
            boot: self.boot,
            table_revision: 9,
            mark: Mark::default(),
        }
        .into()
    }

    pub(crate) fn token_of_first_term() -> Token {
        token(1)
    }
}
