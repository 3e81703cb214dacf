//! One open request: what was asked, what has come of it so far, and what a packet means for it.

use super::desk::{ListedPage, Reply};
use super::{ClientError, MEETINGS_MAX, MeetingView, NOTICES_WAITING_MAX, Notice, RECORDS_MAX, is_transient};
use remeet_protocol::message::{ClientAnswer, ClientCommand, ClientEvent, Failure, Get, List, ListEntry, Subscribe};
use remeet_protocol::{Epoch, ErrorCode, MeetingId, Message};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The shortest and longest pause before a repeat, whatever the scheduler asks for.
const REPEAT_AFTER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));
/// Times that an answer with a gap is asked for again.
const GAPS_MAX: u8 = 3;
/// The most entries of a list's page.
const PAGE_ENTRIES: u16 = 1_000;

/// One open request.
pub(super) struct Open {
    /// None: for as long as somebody listens.
    pub(super) deadline: Option<Instant>,
    pub(super) repeat_at: Option<Instant>,
    pub(super) last: Option<ErrorCode>,
    /// Its request id on this connection.
    pub(super) request: Option<u64>,
    gaps: u8,
    pub(super) what: What,
}

/// What was asked, and as much of the answer as has come.
pub(super) enum What {
    Command {
        command: ClientCommand,
        reply: Reply<ClientAnswer>,
    },
    Get {
        meeting: MeetingId,
        partial: Option<MeetingView>,
        reply: Option<Reply<MeetingView>>,
        update: oneshot::Sender<MeetingView>,
    },
    List {
        after: MeetingId,
        entries: Vec<ListEntry>,
        reply: Reply<ListedPage>,
    },
    Subscription(Subscribed),
}

/// A subscription's place in its stream.
pub(super) struct Subscribed {
    pub(super) meeting: Option<MeetingId>,
    notices: mpsc::Sender<Notice>,
    epoch: Epoch,
    sequence: u64,
    /// The snapshot as far as it has come; none once it is whole.
    partial: Option<Vec<ListEntry>>,
    /// Events that came before the snapshot was whole; they follow it.
    held: Vec<ClientEvent>,
    /// Asked for and not answered yet: what comes before the answer is of an earlier subscription.
    asked: bool,
    /// A notice found no place, or the stream had a gap: events are of no use until a new snapshot.
    lagging: bool,
}

/// What a message means for the request that it belongs to.
pub(super) enum Step {
    /// More is to come.
    Wait,
    /// Answered; nothing more is awaited.
    Done,
    /// Ends with an error.
    Fail(ClientError),
    /// Must be asked again at once.
    Again,
    /// Who answers is of an older term.
    Stale(Epoch),
}

impl Open {
    pub(super) fn new(deadline: Option<Instant>, what: What) -> Self {
        Self { deadline, repeat_at: None, last: None, request: None, gaps: 0, what }
    }

    /// The packet's message that asks for it, from the start.
    pub(super) fn message(&mut self) -> Message {
        self.repeat_at = None;
        match &mut self.what {
            What::Command { command, .. } => command.clone().into(),
            What::Get { meeting, partial, .. } => {
                *partial = None;
                Get { meeting: *meeting }.into()
            }
            What::List { after, entries, .. } => {
                entries.clear();
                List { after: *after, entries_max: PAGE_ENTRIES }.into()
            }
            What::Subscription(subscribed) => {
                subscribed.partial = None;
                subscribed.held.clear();
                subscribed.lagging = false;
                subscribed.asked = true;
                Subscribe { meeting: subscribed.meeting }.into()
            }
        }
    }

    /// Whether nobody listens any more.
    pub(super) fn is_forsaken(&self) -> bool {
        match &self.what {
            What::Command { reply, .. } => reply.is_closed(),
            What::Get { reply: Some(reply), .. } => reply.is_closed(),
            What::Get { reply: None, update, .. } => update.is_closed(),
            What::List { reply, .. } => reply.is_closed(),
            What::Subscription(subscribed) => subscribed.notices.is_closed(),
        }
    }

    /// Whether a subscription needs a new snapshot and its subscriber has caught up.
    pub(super) fn wants_snapshot(&self) -> bool {
        match &self.what {
            What::Subscription(subscribed) => {
                subscribed.lagging && subscribed.notices.capacity() * 2 >= subscribed.notices.max_capacity()
            }
            _ => false,
        }
    }

    pub(super) fn take(&mut self, message: Message, now: Instant) -> Step {
        match message {
            Message::Failure(failure) => self.refused(failure, now),
            Message::ClientAnswer(answer) => self.answered(answer, now),
            message => match &mut self.what {
                What::Get { .. } => self.meeting(message),
                What::List { .. } => self.page(message),
                What::Subscription(subscribed) => subscribed.take(message),
                What::Command { .. } => Step::Wait,
            },
        }
    }

    fn refused(&mut self, failure: Failure, now: Instant) -> Step {
        if !is_transient(failure.code) {
            return Step::Fail(ClientError::Refused(failure));
        }
        self.repeat(failure.code, failure.retry_after_ms, now)
    }

    fn answered(&mut self, answer: ClientAnswer, now: Instant) -> Step {
        if is_transient(answer.code) {
            return self.repeat(answer.code, answer.retry_after_ms, now);
        }
        let What::Command { reply, .. } = &mut self.what else { return Step::Wait };
        let (nobody, _) = oneshot::channel();
        let _ = std::mem::replace(reply, nobody).send(Ok(answer));
        Step::Done
    }

    /// Waits as long as asked, and up to half as long again, so that many do not come at once.
    fn repeat(&mut self, code: ErrorCode, after_ms: u32, now: Instant) -> Step {
        self.last = Some(code);
        let after = Duration::from_millis(after_ms.into()).clamp(REPEAT_AFTER.0, REPEAT_AFTER.1);
        self.repeat_at = Some(now + after.mul_f64(1.0 + rand::random::<f64>() / 2.0));
        Step::Wait
    }

    /// An answer with a gap is asked for again, a bounded number of times.
    fn gap(&mut self, what: &str) -> Step {
        self.gaps += 1;
        if self.gaps > GAPS_MAX {
            return Step::Fail(ClientError::Broken(format!("{what}, {} times in a row", self.gaps)));
        }
        Step::Again
    }

    fn meeting(&mut self, message: Message) -> Step {
        let What::Get { partial, reply, update, .. } = &mut self.what else { return Step::Wait };
        match message {
            Message::MeetingInfo(info) => *partial = Some(MeetingView { info, records: Vec::new() }),
            Message::MeetingRecords(records) => {
                if let Some(view) = partial {
                    if view.records.len() + records.changes.len() > RECORDS_MAX {
                        return Step::Fail(ClientError::Broken(format!("more than {RECORDS_MAX} records")));
                    }
                    view.records.extend(records.changes.into_iter().map(|change| (records.leg, change)));
                }
            }
            Message::MeetingEnd(end) => {
                let view = match partial.take() {
                    Some(view) if u32::try_from(view.records.len()) == Ok(end.records) => view,
                    _ => return self.gap("a meeting came with a gap"),
                };
                let recovering = view.info.recovering;
                if let Some(first) = reply.take() {
                    if first.send(Ok(view)).is_err() || !recovering {
                        return Step::Done;
                    }
                    // From here on the update is awaited, for as long as somebody does.
                    self.deadline = None;
                } else if !recovering {
                    let (nobody, _) = oneshot::channel();
                    let _ = std::mem::replace(update, nobody).send(view);
                    return Step::Done;
                }
            }
            _ => {}
        }
        Step::Wait
    }

    fn page(&mut self, message: Message) -> Step {
        let What::List { entries, reply, .. } = &mut self.what else { return Step::Wait };
        match message {
            Message::ListPage(page) => {
                entries.extend(page.entries);
                if entries.len() > usize::from(PAGE_ENTRIES) {
                    return Step::Fail(ClientError::Broken(format!("a page of more than {PAGE_ENTRIES} meetings")));
                }
            }
            Message::ListEnd(end) => {
                if u32::try_from(entries.len()) != Ok(end.entries) {
                    return self.gap("a list came with a gap");
                }
                let (nobody, _) = oneshot::channel();
                let page = ListedPage { entries: std::mem::take(entries), after: end.after, complete: end.complete };
                let _ = std::mem::replace(reply, nobody).send(Ok(page));
                return Step::Done;
            }
            _ => {}
        }
        Step::Wait
    }
}

impl Subscribed {
    pub(super) fn new(meeting: Option<MeetingId>, notices: mpsc::Sender<Notice>) -> Self {
        Self {
            meeting,
            notices,
            epoch: Epoch(0),
            sequence: 0,
            partial: None,
            held: Vec::new(),
            asked: false,
            lagging: false,
        }
    }

    fn take(&mut self, message: Message) -> Step {
        match message {
            Message::Subscribed(subscribed) => {
                self.asked = false;
                return self.begin(subscribed.epoch, subscribed.sequence);
            }
            _ if self.asked => {}
            Message::Reset(reset) => return self.begin(reset.epoch, reset.sequence),
            Message::ListPage(page) => {
                if let Some(entries) = &mut self.partial {
                    entries.extend(page.entries);
                    if entries.len() > MEETINGS_MAX {
                        return Step::Fail(ClientError::Broken(format!("more than {MEETINGS_MAX} meetings")));
                    }
                }
            }
            Message::ListEnd(end) => match self.partial.take() {
                Some(meetings) if u32::try_from(meetings.len()) == Ok(end.entries) => {
                    self.tell(Notice::Snapshot { epoch: self.epoch, meetings });
                    std::mem::take(&mut self.held).into_iter().for_each(|event| self.event(event));
                }
                Some(_) => self.lagging = true,
                None => {}
            },
            Message::ClientEvent(event) if self.partial.is_none() => self.event(event),
            Message::ClientEvent(event) if self.held.len() < NOTICES_WAITING_MAX => self.held.push(event),
            Message::ClientEvent(_) => self.lagging = true,
            _ => {}
        }
        Step::Wait
    }

    /// Rule 15: in order, without gap, nothing of an older term; else a new snapshot comes first.
    fn event(&mut self, event: ClientEvent) {
        if self.lagging || event.sequence <= self.sequence {
            return;
        }
        if self.sequence.checked_add(1) != Some(event.sequence) {
            self.lagging = true;
            return;
        }
        self.sequence = event.sequence;
        if event.epoch >= self.epoch {
            self.epoch = event.epoch;
            self.tell(Notice::Event(event));
        }
    }

    fn begin(&mut self, epoch: Epoch, sequence: u64) -> Step {
        if epoch < self.epoch {
            return Step::Stale(epoch);
        }
        self.epoch = epoch;
        self.sequence = sequence;
        self.partial = Some(Vec::new());
        self.held.clear();
        Step::Wait
    }

    fn tell(&mut self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.lagging = true;
        }
    }
}

/// Ends a request with an error.
pub(super) fn fail(open: Open, error: ClientError) {
    match open.what {
        What::Command { reply, .. } => drop(reply.send(Err(error))),
        What::Get { reply: Some(reply), .. } => drop(reply.send(Err(error))),
        What::List { reply, .. } => drop(reply.send(Err(error))),
        // A dropped sender ends the update and the subscription.
        What::Get { reply: None, .. } => {}
        What::Subscription(_) => tracing::warn!(%error, "a subscription ended"),
    }
}
