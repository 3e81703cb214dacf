//! The queue to the cache, decided: tasks in runs of one kind, each leg's in order, with bounds; what the cache did not
//! forget is repeated until it holds. A driver carries the runs out. The cache never stops anything: what it did not take
//! is told to the core, which leaves the leg's cached status behind until the next comparison.

use super::{CacheTask, Input};
use crate::model::Moment;
use remeet_protocol::{DomainId, LegId};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Tasks of a pipeline (parts.md trap 15 measured 1,000).
const PIPELINE: usize = 1_000;
/// Tasks that are looked at for it: kinds alternate while clients command and legs are back-filled, and runs of a few would
/// be as many round trips.
const LOOKED_AT: usize = 4 * PIPELINE;
/// Tasks with content or a key that wait, and ends: every leg once, of as many meetings as a scheduler takes if it is not
/// told otherwise (`clients.meetings_max`); some 100 MB of small writes.
pub const QUEUE_MAX: usize = 200_000;
/// Tasks that wait and only name a leg, and are read when their turn comes: after a start with an empty cache the key and
/// the status of every leg of ten times the largest network foreseen; some 150 MB.
const NAMED_MAX: usize = 2_000_000;
/// Ended legs that the cache has not forgotten: some 5 MB. As many would have to end while the cache is away.
const UNFORGOTTEN_MAX: usize = 100_000;
/// Pauses after the cache did not forget: it is asked until it does, but what it refuses for long costs nothing.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The queue to the cache: one run of tasks at a time.
#[derive(Debug, Default)]
pub struct CacheQueue {
    queue: VecDeque<CacheTask>,
    /// Of these, tasks that only name a leg.
    named: usize,
    busy: bool,
    /// Ended legs whose keys and status the cache has kept: it was away, or the queue was full. Secrets must not linger,
    /// so this is repeated until it holds. Out of the queue's order: an ended leg is never cached again, and the cache
    /// refuses for minutes what it has forgotten.
    unforgotten: BTreeSet<(DomainId, LegId)>,
    /// When they are forgotten again, and the pause after that if it fails.
    again: Option<(Moment, Duration)>,
}

impl CacheQueue {
    /// Queues a task. Beyond the bound none is: the input says that what is cached of the leg is behind, and the next
    /// comparison mends it; an ended leg is forgotten later.
    pub fn push(&mut self, now: Moment, task: CacheTask) -> Option<Input> {
        let named = only_names(&task);
        let has_room = if named { self.named < NAMED_MAX } else { self.queue.len() - self.named < QUEUE_MAX };
        if has_room {
            self.named += usize::from(named);
            self.queue.push_back(task);
            return None;
        }
        let full = |leg| Some(Input::Cached(vec![leg], Err("too many cache tasks wait".to_owned())));
        match task {
            CacheTask::Write(write) => full(write.head.leg),
            CacheTask::Refill(head) => full(head.leg),
            CacheTask::MirrorKey(leg) => Some(Input::Uncached(leg)),
            CacheTask::PutKey(key) => Some(Input::Uncached(key.leg)),
            CacheTask::Forget(domain, leg) => {
                self.keep(now, (domain, leg));
                None
            }
            // The next sweep asks again.
            CacheTask::ForgetEnded(..) => None,
        }
    }

    /// Remembers an ended leg that is cached still.
    fn keep(&mut self, now: Moment, name: (DomainId, LegId)) {
        if self.unforgotten.len() < UNFORGOTTEN_MAX {
            self.unforgotten.insert(name);
        } else {
            tracing::warn!(leg = %name.1, "more ended meetings than can be remembered are cached still: this one stays");
        }
        self.again.get_or_insert((now, PAUSE_FIRST));
    }

    /// Tasks that are queued or being done, and ended legs to be forgotten.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len() + self.unforgotten.len() + usize::from(self.busy)
    }

    /// The run is over; these legs are cached still.
    pub fn end(&mut self, now: Moment, unforgotten: Vec<(DomainId, LegId)>) {
        self.busy = false;
        if unforgotten.is_empty() {
            return;
        }
        let pause = self.again.map_or(PAUSE_FIRST, |(_, pause)| pause);
        self.again = Some((now + pause, (pause * 2).min(PAUSE_MAX)));
        for name in unforgotten {
            self.keep(now, name);
        }
    }

    /// The cache answers again: what it owes is due at once.
    pub fn answers_again(&mut self, now: Moment) {
        if let Some((at, pause)) = &mut self.again {
            (*at, *pause) = (now, PAUSE_FIRST);
        }
    }

    /// The next run: tasks of one kind, the first one's. The tasks of each leg keep their order: what is passed over is not
    /// overtaken by a later one of its leg.
    pub fn begin(&mut self, now: Moment) -> Option<Vec<CacheTask>> {
        if self.busy {
            return None;
        }
        if self.unforgotten.is_empty() {
            self.again = None;
        } else if self.again.is_none_or(|(at, _)| at <= now) {
            return self.forget_again();
        }
        let kind = std::mem::discriminant(self.queue.front()?);
        let (mut run, mut passed, mut legs) = (Vec::new(), Vec::new(), BTreeSet::new());
        while run.len() < PIPELINE && run.len() + passed.len() < LOOKED_AT {
            let Some(task) = self.queue.pop_front() else { break };
            if std::mem::discriminant(&task) == kind && !legs.contains(&task.leg()) {
                run.push(task);
            } else {
                legs.insert(task.leg());
                passed.push(task);
            }
        }
        for task in passed.into_iter().rev() {
            self.queue.push_front(task);
        }
        self.named -= run.iter().filter(|task| only_names(task)).count();
        self.busy = true;
        Some(run)
    }

    /// The cache is to be asked for something, to see whether it answers again. If it owes something it is asked for
    /// that: one that may only be read answers nothing else. An empty run: ask for anything small.
    pub fn probe(&mut self) -> Option<Vec<CacheTask>> {
        if self.busy {
            return None;
        }
        let owed = self.forget_again();
        self.busy = true;
        Some(owed.unwrap_or_default())
    }

    /// Forgets ended legs that are cached still, as many as a pipeline takes.
    fn forget_again(&mut self) -> Option<Vec<CacheTask>> {
        let legs: Vec<_> = std::iter::from_fn(|| self.unforgotten.pop_first()).take(PIPELINE).collect();
        if legs.is_empty() {
            return None;
        }
        self.busy = true;
        Some(legs.into_iter().map(|(domain, leg)| CacheTask::Forget(domain, leg)).collect())
    }
}

/// It holds no content and no key: what it caches is read when its turn comes.
fn only_names(task: &CacheTask) -> bool {
    matches!(task, CacheTask::Refill(_) | CacheTask::MirrorKey(_))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use remeet_protocol::MeetingId;

    fn leg(number: u128) -> LegId {
        LegId { meeting: MeetingId(uuid::Uuid::from_u128(number)), leg: 0 }
    }

    const DOMAIN: DomainId = DomainId(1);

    #[test]
    fn a_run_is_of_one_kind_and_the_tasks_of_each_leg_keep_their_order() {
        let (mut queue, now) = (CacheQueue::default(), Moment::default());
        for number in 1..=2 {
            assert!(queue.push(now, CacheTask::MirrorKey(leg(number))).is_none());
        }
        assert!(queue.push(now, CacheTask::Forget(DOMAIN, leg(1))).is_none());
        for number in [1, 3] {
            assert!(queue.push(now, CacheTask::MirrorKey(leg(number))).is_none());
        }
        let mut run = || {
            let run = queue.begin(now).unwrap();
            assert!(queue.begin(now).is_none() && queue.probe().is_none(), "one run at a time");
            queue.end(now, Vec::new());
            let forgets = run.iter().filter(|task| matches!(task, CacheTask::Forget(..))).count();
            (run.iter().map(CacheTask::leg).collect::<Vec<_>>(), forgets)
        };
        assert_eq!(run(), (vec![leg(1), leg(2), leg(3)], 0), "3 overtakes what is of another leg");
        assert_eq!(run(), (vec![leg(1)], 1));
        assert_eq!(run(), (vec![leg(1)], 0), "what came after the forgetting comes after it");
        assert_eq!(queue.waiting(), 0);
    }

    #[test]
    fn what_the_cache_did_not_forget_is_repeated_after_pauses_that_grow_and_at_once_by_a_probe() {
        let (mut queue, mut now) = (CacheQueue::default(), Moment::default());
        queue.push(now, CacheTask::Forget(DOMAIN, leg(1)));
        queue.begin(now).unwrap();
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            queue.end(now, vec![(DOMAIN, leg(1))]);
            let pause = Duration::from_secs(pause);
            now = now + pause;
            assert!(queue.begin(Moment(now.0 - 1)).is_none(), "not before {pause:?}");
            assert_eq!(queue.begin(now).unwrap().len(), 1, "after {pause:?}");
        }
        queue.end(now, vec![(DOMAIN, leg(1))]);
        queue.answers_again(now);
        assert_eq!(queue.begin(now).unwrap().len(), 1, "at once when the cache answers again");
        queue.end(now, vec![(DOMAIN, leg(1))]);
        assert_eq!(queue.probe().unwrap().len(), 1);
        queue.end(now, Vec::new());
        assert_eq!((queue.waiting(), queue.probe().unwrap().len()), (0, 0), "nothing is owed: anything small");
    }

    #[test]
    fn rule_17_cache_tasks_of_every_kind_are_bounded_and_what_is_dropped_is_told() {
        let (mut queue, now) = (CacheQueue::default(), Moment::default());
        for number in 0..QUEUE_MAX as u128 {
            assert!(queue.push(now, CacheTask::Forget(DOMAIN, leg(number))).is_none());
        }
        assert!(queue.push(now, CacheTask::ForgetEnded(DOMAIN, leg(1))).is_none());
        assert_eq!(queue.waiting(), QUEUE_MAX, "it is not queued");
        for number in 0..2 * UNFORGOTTEN_MAX as u128 {
            queue.push(now, CacheTask::Forget(DOMAIN, leg(number)));
        }
        assert_eq!(queue.waiting(), QUEUE_MAX + UNFORGOTTEN_MAX, "what is owed has a bound of its own");
        for number in 0..NAMED_MAX as u128 {
            assert!(queue.push(now, CacheTask::MirrorKey(leg(number))).is_none());
        }
        assert!(matches!(queue.push(now, CacheTask::MirrorKey(leg(1))), Some(Input::Uncached(_))));
        assert_eq!(queue.waiting(), QUEUE_MAX + NAMED_MAX + UNFORGOTTEN_MAX, "what only names a leg has another");
        queue.end(now, Vec::new());
        while !queue.unforgotten.is_empty() {
            queue.begin(now).unwrap();
            queue.end(now, Vec::new());
        }
        queue.begin(now).unwrap();
        assert!(
            queue.push(now, CacheTask::Forget(DOMAIN, leg(1))).is_none() && queue.unforgotten.is_empty(),
            "there is room again"
        );
        assert!(matches!(queue.push(now, CacheTask::MirrorKey(leg(1))), Some(Input::Uncached(_))));
    }

    #[test]
    fn after_a_start_with_an_empty_cache_every_leg_of_ten_times_the_largest_network_is_cached() {
        let legs: u128 = 1_000_000;
        assert!(legs >= u128::from(crate::config::Clients::default().meetings_max));
        let (mut queue, now) = (CacheQueue::default(), Moment::default());
        // Its key and its status.
        assert!((0..2 * legs).all(|number| queue.push(now, CacheTask::MirrorKey(leg(number % legs))).is_none()));
    }
}
