//! [`Session`]: its inputs and outputs.

use super::closing::{needs_control, request_needs_token};
use super::counters::{Counters, Misbehaviour};
use super::events::EventStream;
use super::exchange::Flight;
use super::handshake::{Greeting, Identity};
use super::keepalive::Pulse;
use super::question::Question;
use super::queue::{Queue, Waiting};
use super::unanswered::Unanswered;
use super::{Heard, PersistId, Request, RequestError, Settings, Ticket};
use crate::guard::{Guard, holds};
use crate::model::Moment;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use remeet_protocol::message::{Failure, Goodbye, KeepAlive, Message, Welcome};
use remeet_protocol::packet::Header;
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, ErrorCode, Incoming, Packet, Token};
use std::collections::VecDeque;
use std::time::Duration;

/// One server's conversation, for as long as the process lives: over all connections to that server.
///
/// Every request is answered once, by what was asked or by an error; but for one whose `after` was
/// [`dropped`](Session::dropped), of which its owner knows.
#[derive(Debug)]
pub struct Session {
    pub(super) identity: Identity,
    pub(super) settings: Settings,
    pub(super) rng: ChaCha8Rng,
    pub(super) now: Moment,
    pub(super) phase: Phase,
    pub(super) control: Control,
    /// The token that control was last asked for with, in this connection.
    pub(super) asked: Option<Token>,
    pub(super) request: u64,
    pub(super) unanswered: Unanswered,
    pub(super) queue: Queue,
    pub(super) flight: Flight,
    pub(super) events: EventStream,
    pub(super) counters: Counters,
    pub(super) breaches: u32,
    pub(super) breaches_since: Moment,
    pub(super) redial_after_ms: Option<u32>,
    pub(super) out: VecDeque<Packet>,
    pub(super) heard: VecDeque<Heard>,
}

/// Where the connection stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// There is no link.
    Down,
    /// Awaits the Welcome.
    Greeting(Greeting),
    /// The handshake is done.
    Up(Box<Link>),
    /// Given up, for this reason; awaits the driver's `disconnected`.
    Closing(String),
}

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) welcome: Welcome,
    pub(super) pulse: Pulse,
}

/// Whether the server takes commands.
#[derive(Debug)]
pub(super) enum Control {
    /// Not attached.
    None,
    /// Attached.
    Attached { session: u64, token: Token },
    /// A newer token has attached: nothing that needs control leaves until another attach is asked.
    Fenced(Failure),
}

/// Why [`Session::next_wake`] names its moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WakeReason {
    /// The hello is to be repeated, or the handshake given up.
    Handshake,
    /// A request is to be repeated or given up.
    Repeat,
    /// A queued request has waited too long.
    QueueDeadline,
    /// The link was idle.
    KeepAlive,
    /// Nothing was heard for too long.
    Silence,
    /// An acknowledgement was held back long enough.
    Acknowledge,
    /// An event is missing for too long.
    MissingEvent,
}

/// Inputs.
impl Session {
    /// A conversation without a link.
    #[must_use]
    pub fn new(identity: Identity, settings: Settings) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(settings.seed),
            identity,
            settings,
            now: Moment::default(),
            phase: Phase::Down,
            control: Control::None,
            asked: None,
            request: 0,
            unanswered: Unanswered::default(),
            queue: Queue::default(),
            flight: Flight::default(),
            events: EventStream::default(),
            counters: Counters::default(),
            breaches: 0,
            breaches_since: Moment::default(),
            redial_after_ms: None,
            out: VecDeque::new(),
            heard: VecDeque::new(),
        }
    }

    /// The link is up: says hello.
    pub fn connected(&mut self, now: Moment) {
        self.now = now;
        if !matches!(self.phase, Phase::Down) {
            self.disconnected(now, "the link was replaced by a new one");
        }
        (self.breaches, self.breaches_since) = (0, now);
        self.redial_after_ms = None;
        self.greet();
    }

    /// The link is down, or could not be brought up. Heard as [`Heard::Down`], unless that was heard when
    /// the session itself gave the link up.
    pub fn disconnected(&mut self, now: Moment, reason: &str) {
        self.now = now;
        match self.phase {
            Phase::Closing(_) => {}
            Phase::Down => self.heard.push_back(Heard::Down { reason: reason.to_owned() }),
            Phase::Greeting(_) | Phase::Up(_) => self.close(reason.to_owned()),
        }
        self.phase = Phase::Down;
        self.out.clear();
    }

    /// A packet came.
    pub fn packet(&mut self, now: Moment, incoming: Incoming) {
        self.now = now;
        self.counters.packets_in += 1;
        match &mut self.phase {
            Phase::Down | Phase::Closing(_) => {
                self.counters.foreign_packets += 1;
                return;
            }
            Phase::Greeting(_) => {}
            Phase::Up(link) => link.pulse.heard(now),
        }
        match (incoming, &self.phase) {
            (Err(rejected), _) => self.rejected(&rejected),
            (Ok(packet), Phase::Greeting(_)) => self.greeted(packet),
            (Ok(packet), _) => self.route(packet),
        }
        self.tend_events(now);
        self.pump();
    }

    /// The bytes of the link could not be read as packets: it is given up.
    pub fn broken(&mut self, now: Moment, error: &str) {
        self.now = now;
        if matches!(self.phase, Phase::Greeting(_) | Phase::Up(_)) {
            self.misbehaved(Misbehaviour::Stream, error.to_owned());
            self.close(error.to_owned());
        }
    }

    /// A timer is due. Calling it early or twice does no harm.
    pub fn wake(&mut self, now: Moment) {
        self.now = now;
        match &self.phase {
            Phase::Down | Phase::Closing(_) => return,
            Phase::Greeting(greeting) if greeting.deadline <= now => {
                self.close(format!("no Welcome within {:?}", self.settings.handshake_deadline));
                return;
            }
            Phase::Greeting(greeting) if greeting.due <= now => {
                self.counters.retries += 1;
                self.say_hello();
            }
            Phase::Greeting(_) => {}
            Phase::Up(link) if link.pulse.dead_at(&self.settings) <= now => {
                self.close(format!("nothing heard for {:?}, although asked", self.settings.silence_max));
                return;
            }
            Phase::Up(_) => self.probe(),
        }
        self.repeat_due();
        while let Some(waiting) = self.queue.expired(now, &self.settings) {
            self.counters.unanswered += 1;
            self.fail(waiting.ticket, waiting.question, RequestError::NoAnswer);
        }
        self.tend_events(now);
        self.pump();
    }

    /// Asks something. With `after`, it leaves only once that is [`stored`](Session::stored).
    ///
    /// Without a link the answer is [`RequestError::LinkLost`] at once. With a full queue it is
    /// [`RequestError::Refused`] with `retry`. An attach with another token than before ends everything
    /// that was asked under that one.
    pub fn ask(&mut self, now: Moment, ticket: Ticket, request: Request, after: Option<PersistId>) {
        self.now = now;
        if matches!(self.phase, Phase::Down | Phase::Closing(_)) {
            self.fail_request(ticket, request, &RequestError::LinkLost);
            return;
        }
        match after.filter(|_| holds(Guard::StoredBeforeSent)).map(|id| (id, self.queue.settled(id))) {
            None | Some((_, Some(true))) => self.enqueue(ticket, request),
            Some((_, Some(false))) => {}
            Some((id, None)) => {
                if let Some(request) = self.queue.hold(id, ticket, request, &self.settings) {
                    self.fail_request(ticket, request, &full("too many requests wait for the store"));
                }
            }
        }
        self.pump();
    }

    /// `id` is stored: what awaited it may leave.
    pub fn stored(&mut self, now: Moment, id: PersistId) {
        self.now = now;
        for (ticket, request) in self.queue.settle(id, true, &self.settings) {
            self.enqueue(ticket, request);
        }
        self.pump();
    }

    /// `id` was not stored, and never will be: what awaited it never leaves, and is not answered.
    pub fn dropped(&mut self, id: PersistId) {
        self.queue.settle(id, false, &self.settings);
    }

    /// Events up to `number`, of the boot id that the server has now, are stored.
    pub fn acknowledge(&mut self, number: u64) {
        self.events.stored(self.now, number, &self.settings);
        self.tend_events(self.now);
    }

    /// Gives up control by oneself (rule 5: the lease could have run out): nothing that needs control
    /// leaves until another attach is asked; what was open is answered [`RequestError::LinkLost`].
    pub fn lose_control(&mut self) {
        self.control = Control::None;
        self.asked = None;
        self.fail_all_control(&RequestError::LinkLost);
        self.out.retain(|packet| !needs_control(&packet.message));
    }

    /// Says goodbye: after [`poll_packet`](Session::poll_packet) is empty, the link is to be closed.
    pub fn farewell(&mut self, now: Moment, detail: &str) {
        self.now = now;
        if !matches!(self.phase, Phase::Up(_)) {
            return;
        }
        self.close(format!("said goodbye: {detail}"));
        self.say_goodbye(ErrorCode::OK, detail);
    }

    pub(super) fn say_goodbye(&mut self, code: ErrorCode, detail: &str) {
        let goodbye = Goodbye { code, detail: Text::cut(detail), retry_after_ms: 0 };
        self.emit(Header::default(), goodbye.into());
    }
}

/// Outputs.
impl Session {
    /// The next packet to send, in order.
    pub fn poll_packet(&mut self) -> Option<Packet> {
        let packet = self.out.pop_front()?;
        self.counters.packets_out += 1;
        Some(packet)
    }

    /// The next thing to tell the owner, in order.
    pub fn poll_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// When to [`wake`](Session::wake) next, and why.
    #[must_use]
    pub fn next_wake(&self) -> Option<(Moment, WakeReason)> {
        let own = match &self.phase {
            Phase::Down | Phase::Closing(_) => return None,
            Phase::Greeting(greeting) => [(greeting.due.min(greeting.deadline), WakeReason::Handshake); 2],
            Phase::Up(link) => [
                (link.pulse.probe_due(), WakeReason::KeepAlive),
                (link.pulse.dead_at(&self.settings), WakeReason::Silence),
            ],
        };
        let attached = matches!(self.control, Control::Attached { .. });
        let others = [
            (self.flight.next_due(), WakeReason::Repeat),
            (self.queue.next_expiry(&self.settings), WakeReason::QueueDeadline),
            (self.events.ack_due().filter(|_| attached), WakeReason::Acknowledge),
            (self.events.reorder_due(&self.settings), WakeReason::MissingEvent),
        ];
        own.into_iter().chain(others.into_iter().filter_map(|(due, why)| due.map(|due| (due, why)))).min()
    }

    /// The driver must close the link, for this reason, after [`poll_packet`](Session::poll_packet) is empty.
    #[must_use]
    pub fn wants_close(&self) -> Option<&str> {
        match &self.phase {
            Phase::Closing(reason) => Some(reason),
            _ => None,
        }
    }

    /// With a goodbye the server asked not to be dialled again for this long, plus a random part of up to
    /// a half of it, which the link adds (SPEC H-7).
    #[must_use]
    pub fn redial_after(&self) -> Option<Duration> {
        self.redial_after_ms.map(|ms| Duration::from_millis(ms.into()))
    }
}

impl Session {
    fn enqueue(&mut self, ticket: Ticket, request: Request) {
        if let Request::Attach(token) = &request {
            if self.asked.is_some_and(|before| before != *token) {
                self.lose_control();
            }
            self.asked = Some(*token);
            self.unanswered.begins(*token);
            if let Control::Fenced(_) = self.control {
                self.control = Control::None;
            }
        } else if let (Control::Fenced(failure), true) = (&self.control, request_needs_token(&request)) {
            let error = RequestError::Refused(failure.clone());
            self.fail_request(ticket, request, &error);
            return;
        }
        for question in Question::from_request(request, &self.settings) {
            let waiting = Waiting { ticket, question, since: self.now };
            if let Err(Waiting { ticket, question, .. }) = self.queue.push(waiting, &self.settings) {
                self.fail(ticket, question, full("the queue to this server is full"));
            }
        }
    }

    fn probe(&mut self) {
        let now = self.now;
        if let Phase::Up(link) = &mut self.phase
            && link.pulse.probe_due() <= now
        {
            link.pulse.probed(now);
            let request = self.fresh_request();
            self.emit(Header { request, ..Header::default() }, KeepAlive {}.into());
        }
    }

    /// Hands a packet out, under the attached session.
    pub(super) fn emit(&mut self, header: Header, message: Message) {
        let session = self.attached().map_or(0, |(session, _)| session);
        if let Phase::Up(link) = &mut self.phase {
            link.pulse.sent(self.now);
        }
        self.out.push_back(Packet {
            destination: Address::server(self.identity.server),
            source: Address::scheduler(self.identity.domain),
            header: Header { session, ..header },
            message,
        });
    }
}

fn full(detail: &str) -> RequestError {
    RequestError::Refused(Failure::new(ErrorCode::RETRY, detail))
}
