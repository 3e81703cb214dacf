//! Bounds and periods of the core, each with its reason.

use std::time::Duration;

/// Settings of the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Pulls of one server under way at once. 64 keep a link of 20 ms round trip busy, and bound what a
    /// back-fill holds in memory.
    pub pulls_in_flight: usize,
    /// Pulls of one server that are under way or not stored yet, for each that may be under way. Four keep the store's
    /// lanes filled while the link works; with the store down, the back-fill stands after so many.
    pub pulls_unstored: usize,
    /// Acceptances that are not stored yet, beyond which no more claims are handed out: four batches for each of the store's
    /// two lanes, so that a client's command, which is stored behind them, does not wait long. Claims that are not answered
    /// count, too, but for `claims_at_least` of each server; and as long as there is room a server gets all that it may have
    /// under way, so twice as many may come.
    pub acceptances_unstored: usize,
    /// Claims of one server under way at once: several times what its session's window takes, so that it never runs dry.
    pub claims_in_flight: usize,
    /// What a server without any claim under way is given while others hold all the room, of which some may hang: eight
    /// packets, with which a link of 20 ms round trip brings 5,000 legs a second.
    pub claims_at_least: usize,
    /// Legs that are being looked up, or whose claims wait for the store, beyond which no other server's are looked up in a
    /// first pass: the store's work of half a second, so that it never runs dry, and some 40 MB of rows and lists.
    pub legs_unclaimed: usize,
    /// A round that has not ended by then is given up and begun anew: twice rule 18's 30 s.
    pub round_deadline: Duration,
    /// A round that failed or left legs pending is followed by another after this, doubled each time in a
    /// row: short against rule 18, and no load on a server that refuses for long.
    pub round_retry: Duration,
    /// The longest of these pauses.
    pub round_retry_max: Duration,
    /// Everything is compared with every server this often, events or not: finds what a lost event or a
    /// mistake left behind. Costs one inventory a server.
    pub reconcile_every: Duration,
    /// Legs in memory beyond which no meeting is created: twice the largest network foreseen, some 100 MB. What lives
    /// already is recovered and adopted whatever this says.
    pub legs_max: usize,
    /// Client commands that wait for their meeting's recovery, a leg. More are answered `retry`.
    pub waiting_per_leg: usize,
    /// The same over all legs.
    pub waiting_total: usize,
    /// How long a command waits for its meeting's recovery before it is answered `retry`.
    pub waiting_deadline: Duration,
    /// Open intents of one leg. One is in flight; more would only wait.
    pub intents_per_leg: usize,
    /// Event marks beyond a gap that are remembered a leg; more force a pull.
    pub gap_marks: usize,
    /// Client instances in memory (design §3: 10,000 are kept).
    pub instances: usize,
    /// Answers kept an instance (design §3).
    pub answers_per_instance: usize,
    /// Orphans remembered a server: beyond it only their number counts.
    pub orphans_per_server: usize,
    /// Times that a lost compare-and-set is read again and tried anew.
    pub lost_retries: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pulls_in_flight: 64,
            pulls_unstored: 4,
            acceptances_unstored: 8_192,
            claims_in_flight: 2_048,
            claims_at_least: 112,
            legs_unclaimed: 32_768,
            round_deadline: Duration::from_secs(60),
            round_retry: Duration::from_millis(200),
            round_retry_max: Duration::from_secs(5),
            reconcile_every: Duration::from_secs(300),
            legs_max: 200_000,
            waiting_per_leg: 64,
            waiting_total: 10_000,
            waiting_deadline: Duration::from_secs(10),
            intents_per_leg: 256,
            gap_marks: 256,
            instances: 10_000,
            answers_per_instance: 256,
            orphans_per_server: 1_000,
            lost_retries: 3,
        }
    }
}
