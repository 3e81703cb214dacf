//! Goal: a helper that panics ends its driver, whatever it did; old answers are deleted soon after a term began. Method: each part alone, over a store that panics when told to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::cacher::Cacher;
use super::clock::Clock;
use super::driver::{Driver, Ended, Parts};
use super::helper::Helpers;
use super::reader::Readers;
use super::term::{Keeper, PRUNE, PruneTimes, prune};
use super::writer::Writers;
use crate::config::{Credentials, Environment, parse};
use crate::link::ListenCounters;
use crate::model::Moment;
use crate::ops::{Heartbeat, ServiceManager};
use crate::recovery::lease::{Lease, LeaseAsk, LeaseTiming};
use crate::recovery::{CacheTask, Input, Read, ReadId};
use crate::session::PersistId;
use crate::store::fixture::{LEG, PLACE, with_a_meeting};
use crate::store::{
    Cache, CacheLimits, CachedHead, Call, FailingStore, Failure, Store, StoreOptions, Unit, Write, open,
    open_cache_with,
};
use remeet_protocol::message::MeetingState;
use remeet_protocol::{DomainId, Epoch, Holder, LegId, MeetingId, ServerId, Token};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: Token = Token { epoch: Epoch(1), holder: Holder(uuid::Uuid::from_bytes([1; 16])) };

struct Ground {
    store: Arc<FailingStore>,
    cache: Arc<dyn Cache>,
    helpers: Helpers,
    panicked: mpsc::Receiver<&'static str>,
    directory: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("remeet.db");
        let inner = open(&format!("sqlite:{}", path.display()), &StoreOptions::default()).unwrap();
        let cache = open_cache_with("memory:", CacheLimits::default()).unwrap();
        let (helpers, panicked) = Helpers::new();
        Self { store: Arc::new(FailingStore::new(inner)), cache, helpers, panicked, directory }
    }

    fn panics(call: Call) -> Self {
        let ground = Self::new();
        ground.store.fail_always(call, Some(Failure::Panics));
        ground
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn cacher(&self) -> Cacher {
        Cacher::new(self.store(), Arc::clone(&self.cache), self.helpers.clone()).0
    }

    async fn told(mut self) -> &'static str {
        timeout(PATIENCE, self.panicked.recv()).await.expect("a panic is told").unwrap()
    }
}

fn leg(number: usize) -> LegId {
    LegId { meeting: MeetingId(uuid::Uuid::from_u128(number as u128)), leg: 0 }
}

#[tokio::test]
async fn a_write_that_panics_is_told() {
    let ground = Ground::panics(Call::Write);
    let (mut writers, _done) = Writers::new(ground.store(), ground.helpers.clone());
    writers.push(0, PersistId(1), Unit::one(Write::First(leg(1), true)));
    writers.begin(TOKEN);
    assert_eq!(ground.told().await, "writing to the store");
}

#[tokio::test]
async fn a_read_that_panics_is_told() {
    let ground = Ground::panics(Call::Legs);
    let (readers, _told) = Readers::new(ground.store(), Arc::clone(&ground.cache), ground.helpers.clone());
    readers.begin(ReadId(1), Read::Legs(vec![leg(1)]));
    assert_eq!(ground.told().await, "reading from the store or the cache");
}

#[tokio::test]
async fn a_cache_task_that_panics_is_told() {
    let ground = Ground::panics(Call::Legs);
    let mut cacher = ground.cacher();
    assert!(cacher.push(Moment::default(), CacheTask::MirrorKey(leg(1))).is_none());
    cacher.begin(Moment::default(), TOKEN.epoch);
    assert_eq!(ground.told().await, "working for the cache");
}

/// Found by a review: the key stayed out of the cache until the next comparison of everything, and nobody knew.
#[tokio::test]
async fn a_key_that_the_store_could_not_say_is_told_as_not_cached() {
    let ground = Ground::new();
    ground.store.fail_next(Call::Legs, Failure::Unavailable);
    let (mut cacher, mut ends) = Cacher::new(ground.store(), Arc::clone(&ground.cache), ground.helpers.clone());
    assert!(cacher.push(Moment::default(), CacheTask::MirrorKey(leg(1))).is_none());
    cacher.begin(Moment::default(), TOKEN.epoch);
    let done = timeout(PATIENCE, ends.recv()).await.expect("the run ends").unwrap();
    assert!(matches!(done.inputs[..], [Input::Uncached(of)] if of == leg(1)), "{:?}", done.inputs);
    assert!(done.health.is_none(), "the cache was not asked");
}

/// Found by the simulation (seed 16179): under its new place the old content looked newer than all that followed.
#[tokio::test]
async fn a_refill_caches_no_content_of_an_earlier_life_of_its_leg() {
    for (place, cached) in [(PLACE, 1), ((PLACE.0, remeet_protocol::Handle(PLACE.1.0 + 1)), 0)] {
        let directory = tempfile::tempdir().unwrap();
        let (store, token) = with_a_meeting(&format!("sqlite:{}", directory.path().join("remeet.db").display())).await;
        let cache = open_cache_with("memory:", CacheLimits::default()).unwrap();
        let (helpers, _panicked) = Helpers::new();
        let (mut cacher, mut ends) = Cacher::new(store, Arc::clone(&cache), helpers);
        let head = CachedHead {
            leg: LEG,
            domain: DomainId(1),
            server: ServerId(1),
            boot: place.0,
            handle: place.1,
            state: MeetingState::InMeeting,
            epoch: token.epoch,
        };
        assert!(cacher.push(Moment::default(), CacheTask::Refill(head)).is_none());
        cacher.begin(Moment::default(), token.epoch);
        timeout(PATIENCE, ends.recv()).await.expect("the run ends").unwrap();
        assert_eq!(cache.contents(&[(DomainId(1), LEG)]).await.unwrap().len(), cached, "{place:?}");
    }
}

#[tokio::test]
async fn questions_about_the_lease_that_panic_are_told() {
    for (call, doing) in
        [(Call::BeginTerm, "asking the store about the lease"), (Call::Released, "waiting for a release")]
    {
        let ground = Ground::panics(call);
        let lease = Duration::from_secs(6);
        let (mut keeper, _answers) =
            Keeper::new(ground.store(), ground.helpers.clone(), "node".to_owned(), TOKEN.holder, lease);
        let _releases = if call == Call::Released {
            Some(keeper.listen())
        } else {
            keeper.ask(LeaseAsk::Begin { above: Epoch(0) });
            None
        };
        assert_eq!(ground.told().await, doing);
    }
}

#[tokio::test]
async fn a_deletion_that_panics_is_told() {
    let ground = Ground::panics(Call::PruneAnswers);
    let times = PruneTimes { first: Duration::ZERO, ..PRUNE };
    let _pruning = prune(&ground.helpers, ground.store(), TOKEN, times);
    assert_eq!(ground.told().await, "deleting old client answers");
}

#[tokio::test]
async fn a_helper_that_panics_ends_the_driver_instead_of_stalling_it() {
    let ground = Ground::panics(Call::BeginTerm);
    let home = ground.directory.path().display();
    let text = format!(
        "[scheduler]\ndomain = 1\nname = \"test\"\nnode = \"test\"\nstate_directory = \"{home}/state\"\n\
         [store]\nurl = \"sqlite:remeet.db\"\n\
         [[server]]\nid = 1\nname = \"none\"\naddress = \"127.0.0.1:9\"\n\
         [[client]]\nid = 1\nname = \"panel\"\nrights = [\"control\"]\n"
    );
    let config = parse(&text, &Environment::new(), &Credentials::default()).unwrap();
    let lease = Lease::new(LeaseTiming::of(config.scheduler.lease, Duration::ZERO));
    let clients = (config.clients.listen, Arc::new(ListenCounters::default()));
    let (mut driver, _handle) = Driver::new(Parts {
        config: Arc::new(config),
        clock: Clock::start(),
        store: ground.store(),
        cache: Arc::clone(&ground.cache),
        service: ServiceManager::default(),
        heartbeat: Heartbeat::default(),
        clients,
        lease,
    });
    let ended = timeout(PATIENCE, driver.run(CancellationToken::new())).await.expect("it does not stand still");
    assert_eq!(ended, Ended::Broken("asking the store about the lease"));
}

#[tokio::test]
async fn old_answers_are_deleted_once_soon_after_the_term_began() {
    let ground = Ground::new();
    ground.store().migrate().await.unwrap();
    let times = PruneTimes { first: Duration::from_millis(1), ..PRUNE };
    let pruning = prune(&ground.helpers, ground.store(), TOKEN, times);
    let pruned = async {
        while ground.store.calls(Call::PruneAnswers) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, pruned).await.expect("it is not an hour");
    drop(pruning);
    assert!(PRUNE.first <= Duration::from_secs(600) && PRUNE.every == Duration::from_secs(3_600), "{PRUNE:?}");
}
