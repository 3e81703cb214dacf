//! The open requests of a client: what was asked, under which id, and what has come of it so far. Pure:
//! no socket; packets to send are appended to [`Desk::out`], time is an argument.

use super::memory::Memory;
use super::open::{Open, Step, Subscribed, What, fail};
use super::{
    COMMANDS_IN_FLIGHT, ClientError, LinkState, MeetingView, NUMBERS_AHEAD, Notice, READS_IN_FLIGHT, SUBSCRIPTIONS_MAX,
};
use bytes::BytesMut;
use remeet_protocol::address::Address;
use remeet_protocol::message::{
    ClientAnswer, ClientCommand, ClientOp, Failure, Goodbye, KeepAlive, KeepAliveAnswer, ListEntry,
};
use remeet_protocol::packet::BodyTooLong;
use remeet_protocol::{DomainId, ErrorCode, Flags, Header, MeetingId, Message, Packet};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Deadlines and given-up requests are looked at this often; repeats have a moment of their own.
const TICK: Duration = Duration::from_millis(100);

pub(super) type Reply<T> = oneshot::Sender<Result<T, ClientError>>;

/// A command to give.
pub(super) struct CommandAsk {
    pub(super) meeting: MeetingId,
    pub(super) op: ClientOp,
    pub(super) deadline: Instant,
    pub(super) reply: Reply<ClientAnswer>,
}

/// Something to read.
pub(super) enum ReadAsk {
    Get { meeting: MeetingId, deadline: Instant, reply: Reply<MeetingView>, update: oneshot::Sender<MeetingView> },
    List { after: MeetingId, deadline: Instant, reply: Reply<ListedPage> },
    Subscribe { meeting: Option<MeetingId>, notices: mpsc::Sender<Notice>, reply: Reply<()> },
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct ListedPage {
    pub(super) entries: Vec<ListEntry>,
    pub(super) after: MeetingId,
    pub(super) complete: bool,
}

/// Why a connection ended.
pub(super) enum Lost {
    Link(String),
    Goodbye(Goodbye),
    Refused(Failure),
}

/// Names an open request; commands by number, so that they are sent again in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Subscription(u64),
    Command(u64),
    Read(u64),
}

/// How a request ends.
enum End {
    /// Its asker has the answer.
    Answered,
    /// Refused, or not usable; trying again does not help.
    Failed(ClientError),
    /// What came of it is not known.
    GivenUp(ClientError),
}

/// See the module's page.
pub(super) struct Desk {
    /// Packets to send.
    pub(super) out: BytesMut,
    /// Commands that ended since the driver looked, and whether by a final answer.
    pub(super) ended: Vec<(u64, bool)>,
    instance: u64,
    open: BTreeMap<Key, Open>,
    /// Request ids of this connection.
    requests: HashMap<u64, Key>,
    next_request: u64,
    next_key: u64,
    highest_number: u64,
    source: Address,
    destination: Address,
    connected: bool,
    /// The connection is to a scheduler that held no term, and there are others.
    standby: bool,
    next_tick: Instant,
}

impl Desk {
    pub(super) fn new(memory: &Memory, id: u32) -> Self {
        Self {
            out: BytesMut::new(),
            ended: Vec::new(),
            instance: memory.instance,
            open: BTreeMap::new(),
            requests: HashMap::new(),
            next_request: 1,
            next_key: 0,
            highest_number: 0,
            source: Address::client(id),
            destination: Address::scheduler(DomainId(0)),
            connected: false,
            standby: false,
            next_tick: Instant::now() + TICK,
        }
    }

    pub(super) fn source(&self) -> Address {
        self.source
    }

    /// A connection is there: everything open is asked again, commands in order of number.
    pub(super) fn connected(&mut self, domain: DomainId, standby: bool) {
        self.standby = standby;
        self.destination = Address::scheduler(domain);
        self.connected = true;
        let keys: Vec<Key> = self.open.keys().copied().collect();
        keys.into_iter().for_each(|key| self.send(key));
    }

    /// The connection is gone, and with it every request id.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
        self.requests.clear();
        self.out.clear();
    }

    /// The client is closed.
    pub(super) fn end(&mut self) {
        let keys: Vec<Key> = self.open.keys().copied().collect();
        keys.into_iter().for_each(|key| self.close(key, End::GivenUp(super::CLOSED)));
    }

    /// Whether another command may be taken on (see the module page of [`super`]).
    pub(super) fn takes_commands(&self) -> bool {
        let mut numbers = self.open.range(Key::Command(0)..=Key::Command(u64::MAX)).map(|(key, _)| *key);
        match numbers.next() {
            Some(Key::Command(lowest)) => {
                self.highest_number < lowest.saturating_add(NUMBERS_AHEAD) && numbers.count() + 1 < COMMANDS_IN_FLIGHT
            }
            _ => true,
        }
    }

    /// Whether another get, list or subscription may be taken on.
    pub(super) fn takes_reads(&self) -> bool {
        self.open.range(Key::Read(0)..).count() < READS_IN_FLIGHT
    }

    /// Takes a command on and gives its number; it is not sent yet. Nothing if nobody waits for it any more.
    pub(super) fn take_command(&mut self, ask: CommandAsk, memory: &mut Memory) -> Option<u64> {
        if ask.reply.is_closed() {
            return None;
        }
        let number = memory.number(ask.meeting, &ask.op);
        self.highest_number = self.highest_number.max(number);
        let command = ClientCommand { instance: self.instance, number, meeting: ask.meeting, op: ask.op };
        let what = What::Command { command, reply: ask.reply };
        self.open.insert(Key::Command(number), Open::new(Some(ask.deadline), what));
        Some(number)
    }

    pub(super) fn send_command(&mut self, number: u64) {
        self.send(Key::Command(number));
    }

    pub(super) fn give_up(&mut self, number: u64, error: ClientError) {
        self.close(Key::Command(number), End::GivenUp(error));
    }

    pub(super) fn take_read(&mut self, ask: ReadAsk) {
        self.next_key += 1;
        let (key, open) = match ask {
            ReadAsk::Get { meeting, deadline, reply, update } => {
                let what = What::Get { meeting, partial: None, reply: Some(reply), update };
                (Key::Read(self.next_key), Open::new(Some(deadline), what))
            }
            ReadAsk::List { after, deadline, reply } => {
                let what = What::List { after, entries: Vec::new(), reply };
                (Key::Read(self.next_key), Open::new(Some(deadline), what))
            }
            ReadAsk::Subscribe { meeting, notices, reply } => {
                // One that was dropped a moment ago makes room.
                self.drop_forsaken();
                if self.open.range(..Key::Command(0)).count() >= SUBSCRIPTIONS_MAX {
                    let _ = reply.send(Err(ClientError::NotNow("the client has as many subscriptions as it may")));
                    return;
                }
                let _ = reply.send(Ok(()));
                let what = What::Subscription(Subscribed::new(meeting, notices));
                (Key::Subscription(self.next_key), Open::new(None, what))
            }
        };
        self.open.insert(key, open);
        self.send(key);
    }

    /// When [`Desk::tick`] has something to do.
    pub(super) fn next_wake(&self) -> Instant {
        let repeats = self.open.values().filter_map(|open| open.repeat_at);
        repeats.fold(self.next_tick, Instant::min)
    }

    /// Sends what is due again, and ends what is past its deadline or no longer awaited.
    pub(super) fn tick(&mut self, now: Instant, link: &LinkState) {
        let due = |open: &Open| open.repeat_at.is_some_and(|at| at <= now) || open.wants_snapshot();
        let due: Vec<Key> = self.open.iter().filter(|(_, open)| due(open)).map(|(key, _)| *key).collect();
        due.into_iter().for_each(|key| self.send(key));
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.drop_forsaken();
        let late = |open: &Open| open.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<Key> = self.open.iter().filter(|(_, open)| late(open)).map(|(key, _)| *key).collect();
        for key in late {
            let last = match (self.open.get(&key).and_then(|open| open.last), &link.last_error) {
                (Some(code), _) => format!("the last answer was {code}"),
                (None, Some(error)) if !self.connected => error.clone(),
                _ => "nothing was answered".to_owned(),
            };
            self.close(key, End::GivenUp(ClientError::Deadline { last }));
        }
    }

    /// Asks whether the scheduler is there.
    pub(super) fn keep_alive(&mut self) {
        self.next_request += 1;
        let header = Header { request: self.next_request, ..Header::default() };
        // A keep-alive has no body: it fits.
        let _ = self.write(header, KeepAlive {}.into());
    }

    /// Takes a packet in. Packets of requests that are no longer open are ignored.
    pub(super) fn packet(&mut self, packet: Packet, now: Instant) -> Result<(), Lost> {
        let Packet { header, message, .. } = packet;
        let key = match &message {
            Message::KeepAlive(_) => {
                let header = Header { flags: Flags::FINAL_ANSWER, ..header };
                let _ = self.write(header, KeepAliveAnswer { table_revision: 0 }.into());
                return Ok(());
            }
            Message::Goodbye(goodbye) => return Err(Lost::Goodbye(goodbye.clone())),
            // Its number names it better than a request id does: an answer is good whichever sending it answers.
            Message::ClientAnswer(answer) if answer.instance == self.instance => Some(Key::Command(answer.number)),
            _ => self.requests.get(&header.request).copied().or_else(|| self.only_subscription(&header, &message)),
        };
        let Some(key) = key else { return Ok(()) };
        let Some(open) = self.open.get_mut(&key) else { return Ok(()) };
        // It holds no term; another may hold one by now.
        let elsewhere =
            self.standby && matches!(&message, Message::ClientAnswer(answer) if answer.code == ErrorCode::UNAVAILABLE);
        match open.take(message, now) {
            Step::Wait => {}
            Step::Done => self.close(key, End::Answered),
            Step::Fail(error) => self.close(key, End::Failed(error)),
            Step::Again => self.send(key),
            Step::Stale(epoch) => {
                return Err(Lost::Link(format!("a scheduler of an older term ({epoch}) answers")));
            }
        }
        if elsewhere {
            return Err(Lost::Link("the scheduler is a standby".to_owned()));
        }
        Ok(())
    }

    /// A notice may come without a request id (0); it can then belong to a lone subscription only.
    fn only_subscription(&self, header: &Header, message: &Message) -> Option<Key> {
        let of_subscription =
            matches!(message, Message::ClientEvent(_) | Message::Reset(_) | Message::ListPage(_) | Message::ListEnd(_));
        let mut all = self.open.range(..Key::Command(0)).map(|(key, _)| *key);
        match (all.next(), all.next()) {
            (Some(key), None) if header.request == 0 && of_subscription => Some(key),
            _ => None,
        }
    }

    fn drop_forsaken(&mut self) {
        let forsaken: Vec<Key> = self.open.iter().filter(|(_, open)| open.is_forsaken()).map(|(key, _)| *key).collect();
        forsaken.into_iter().for_each(|key| self.close(key, End::GivenUp(super::CLOSED)));
    }

    fn send(&mut self, key: Key) {
        let Some(open) = self.open.get_mut(&key) else { return };
        let message = open.message();
        if !self.connected {
            return;
        }
        // 1 was the hello.
        self.next_request += 1;
        let request = self.next_request;
        if let Some(before) = open.request.replace(request) {
            self.requests.remove(&before);
        }
        self.requests.insert(request, key);
        if let Err(error) = self.write(Header { request, ..Header::default() }, message) {
            // The caller gave it more than a packet holds.
            self.close(key, End::Failed(ClientError::Broken(error.to_string())));
        }
    }

    fn close(&mut self, key: Key, end: End) {
        let Some(open) = self.open.remove(&key) else { return };
        if let Some(request) = open.request {
            self.requests.remove(&request);
        }
        if let Key::Command(number) = key {
            self.ended.push((number, !matches!(end, End::GivenUp(_))));
        }
        match end {
            End::Answered => {}
            End::Failed(error) | End::GivenUp(error) => fail(open, error),
        }
    }

    fn write(&mut self, header: Header, message: Message) -> Result<(), BodyTooLong> {
        Packet { destination: self.destination, source: self.source, header, message }.write(&mut self.out)
    }
}
