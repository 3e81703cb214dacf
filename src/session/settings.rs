//! Bounds and times of one conversation, each with its reason.

use remeet_protocol::DomainId;
use std::time::Duration;

/// Settings of a [`Session`](super::Session).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Seed of the jitter. Give each server another, so that retries to many do not fall together.
    pub seed: u64,
    /// The link is a stream: nothing is lost within a connection, so a question that many packets answer is
    /// only awaited, not repeated (SPEC M-5). False for datagrams.
    pub stream: bool,
    /// The domain that the server's Welcome must name (SPEC H-4); none to accept any.
    pub server_domain: Option<DomainId>,
    /// From the link's coming up to the Welcome. A server that accepts but does not speak is cut after
    /// this: 5 s is what every handshake in this network gets.
    pub handshake_deadline: Duration,
    /// The first repeat of a request without any answer (SPEC M-5).
    pub answer_timeout: Duration,
    /// The longest pause between repeats: the back-off doubles up to here (SPEC M-5).
    pub answer_timeout_max: Duration,
    /// Sendings of one request that brought nothing back, after which it is given up (SPEC M-5).
    pub sendings_max: u32,
    /// From a request's first sending to giving it up, `busy` answers included. Half of rule 18's 30 s, so
    /// that the asker has time to ask once more.
    pub answer_deadline: Duration,
    /// Not on a stream: a page that has come in part is asked again after this long without a further
    /// packet.
    pub gap_timeout: Duration,
    /// The least pause after `busy` and `retry`, whatever the server says: keeps a server that answers 0
    /// from being asked in a circle.
    pub busy_pause_min: Duration,
    /// What is queued leaves within this time or is answered *no answer*: a request for which nobody gets
    /// control must not wait for ever.
    pub queue_deadline: Duration,
    /// Requests in flight. 32 of 1 KiB fill a link of 20 ms round trip at 13 Mbit/s, and in-process tests
    /// showed ten times the rate of one at a time.
    pub window: usize,
    /// Of these, pulls: half, so that a takeover or a command never waits for pulls to end. With
    /// `packets_max` it bounds what is held of unfinished pages: 16 × 64 KiB.
    pub pull_window: usize,
    /// Requests that wait out a `busy` outside the window; more of them stay inside, which slows the rest
    /// down, as is right with a server that busy.
    pub parked_max: usize,
    /// After so many commands in a row a waiting pull gets its turn: pulls wait, but not for ever.
    pub commands_before_pull: u32,
    /// Inventories and attaches queued. The recovery asks one at a time; 16 is room for an operator's.
    pub urgent_max: usize,
    /// Takeover packets queued: an inventory's worth of legs at 14 a packet.
    pub takeovers_max: usize,
    /// Commands and adoptions queued: all clients' queues together hold no more.
    pub commands_max: usize,
    /// Pulls queued: an inventory's worth.
    pub pulls_max: usize,
    /// Requests that wait for the store, together: starts and commands of every leg fit.
    pub held_max: usize,
    /// Packets that one Query or Pull asks for (1 to 256). 64 KiB is what the link's buffers hold.
    pub packets_max: u16,
    /// Entries of one server's inventory: twenty times the largest server planned (10,000 legs), 20 MB.
    pub inventory_entries_max: usize,
    /// An inventory whose cut is gone is begun again so often.
    pub inventory_restarts_max: u32,
    /// Changes of one leg's pull: 65,535 terminals with a window and some entries each.
    pub pull_changes_max: u64,
    /// Pages of one pull or inventory: at 64 packets each far beyond both caps above.
    pub pages_max: u32,
    /// Rounds in which claims that an answer left out are asked again.
    pub takeover_rounds_max: u32,
    /// Idle time before a keep-alive, if the server does not want it sooner.
    pub keep_alive: Duration,
    /// Nothing heard for this long, although asked: the server is unreachable. As long as a lease, so a
    /// hung server is noticed no later than a hung scheduler.
    pub silence_max: Duration,
    /// Events held until a lower number comes. As many as a server sends without acknowledgement.
    pub reorder_max: usize,
    /// The longest that an event waits for a lower number; then a gap is reported. A server repeats what is
    /// not acknowledged after 1 s and again 2 s later (SPEC E-5).
    pub reorder_timeout: Duration,
    /// Not on a stream: how long the first events of a server's life are held for lower numbers. Longer than the server's
    /// pause before it repeats (1 s, SPEC E-5); what comes later still is a gap.
    pub first_event_wait: Duration,
    /// Events after which an acknowledgement leaves at once: a quarter of what a server sends without.
    pub ack_events: u64,
    /// The longest that an acknowledgement is held back to cover more events.
    pub ack_delay: Duration,
    /// Breaches of the protocol within `misbehaviours_window`, after which the link is closed: enough to
    /// see a pattern in the log, few enough not to fill it.
    pub misbehaviours_max: u32,
    /// Breaches longer ago do not count: a link may live for months.
    pub misbehaviours_window: Duration,
    /// Packets to leave that are not requests (answers to the server's). More are not answered.
    pub answers_max: usize,
    /// Settled stores that are remembered, so that `stored` may come before the `ask` that awaits it.
    pub settled_max: usize,
}

impl Settings {
    /// Of the window, commands: all but a quarter. A server holds their answers back behind events that it may send only
    /// once a gap is acknowledged, and that needs an inventory first (SPEC E-6): what is left is for that.
    pub(super) fn command_window(&self) -> usize {
        self.window.saturating_sub((self.window / 4).max(1)).max(1)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            stream: true,
            server_domain: None,
            handshake_deadline: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(1),
            answer_timeout_max: Duration::from_secs(8),
            sendings_max: 8,
            answer_deadline: Duration::from_secs(15),
            gap_timeout: Duration::from_millis(300),
            busy_pause_min: Duration::from_millis(50),
            queue_deadline: Duration::from_secs(60),
            window: 32,
            pull_window: 16,
            parked_max: 64,
            commands_before_pull: 16,
            urgent_max: 16,
            takeovers_max: 16_384,
            commands_max: 16_384,
            pulls_max: 200_000,
            held_max: 65_536,
            packets_max: 64,
            inventory_entries_max: 200_000,
            inventory_restarts_max: 3,
            pull_changes_max: 500_000,
            pages_max: 8_192,
            takeover_rounds_max: 3,
            keep_alive: Duration::from_secs(1),
            silence_max: Duration::from_secs(6),
            reorder_max: 256,
            reorder_timeout: Duration::from_secs(4),
            first_event_wait: Duration::from_millis(1_500),
            ack_events: 64,
            ack_delay: Duration::from_millis(20),
            misbehaviours_max: 16,
            misbehaviours_window: Duration::from_secs(60),
            answers_max: 1_024,
            settled_max: 4_096,
        }
    }
}
