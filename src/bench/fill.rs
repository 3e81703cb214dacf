//! The same meetings in servers and store, as if they had run for long.
//!
//! Millions of rows by clients' commands would take minutes. What stands afterwards is what the scheduler would have
//! written: the store's own statements write it, and a first start of the scheduler compares all of it.

use super::options::Network;
use crate::model::{RecoveryKey, StoredLeg, StoredState};
use crate::simulator::core::leg::Leg;
use crate::simulator::{Fill, Filled, Request};
use crate::stage::backing::Backing;
use crate::stage::progress::Progress;
use crate::stage::{DOMAIN, Stage, StageError};
use crate::store::{
    Begun, Candidate, ContentWrite, NewLeg, Outcome, Store, StoreError, StoreOptions, Unit, Write, open,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use remeet_protocol::{Change, DomainId, Epoch, Handle, Holder, LegId, ServerId, Token};
use std::sync::Arc;
use std::time::Duration;

/// Legs of one write to the store: some ten thousand rows.
const CHUNK: u32 = 500;
/// Writes at a time: one fills while the other commits.
const WRITES: usize = 2;
/// A chunk takes a tenth of a second; on a busy machine a statement may wait for a checkpoint.
const DEADLINE: Duration = Duration::from_secs(60);

impl From<StoreError> for StageError {
    fn from(error: StoreError) -> Self {
        StageError::new(error)
    }
}

/// What was filled.
#[derive(Debug, Clone)]
pub(super) struct Population {
    /// The legs of each server, with the server, in order of place: the first's places are before the second's.
    pub(super) legs: Vec<(ServerId, Vec<LegId>)>,
}

struct Portion {
    server: ServerId,
    fill: Fill,
    filled: Filled,
}

/// Fills everything. The scheduler must not run.
pub(super) async fn fill(
    network: &Network,
    stage: &mut Stage,
    backing: &Backing,
    progress: &Progress,
) -> Result<Population, StageError> {
    progress.step("servers and store are filled");
    let store_options =
        StoreOptions { write_deadline: DEADLINE, call_deadline: 2 * DEADLINE, ..StoreOptions::default() };
    let store = open(&backing.store_url, &store_options)?;
    store.migrate().await?;
    let token = begin(store.as_ref(), &stage.schedulers[0].name).await?;
    let mut portions = Vec::new();
    let mut first = 0;
    for (place, server) in stage.servers.iter_mut().enumerate() {
        let rest = u32::try_from(place).is_ok_and(|place| place < network.meetings % network.servers);
        let count = network.meetings / network.servers + u32::from(rest);
        let fill = Fill { seed: network.seed, first, count, terminals: network.terminals, token };
        let filled = server.control.ask(&Request::Fill(fill.clone())).await?;
        portions.push(Portion { server: server.id, fill, filled });
        first += count;
    }
    let chunks = portions.iter().flat_map(|portion| {
        let last = portion.fill.first + portion.fill.count;
        let chunk = usize::try_from(CHUNK).unwrap_or(usize::MAX);
        (portion.fill.first..last).step_by(chunk).map(move |from| (portion, from..last.min(from + CHUNK)))
    });
    let written = chunks.map(|(portion, places)| {
        let store = Arc::clone(&store);
        async move {
            let units: Vec<Unit> = places.filter_map(|place| unit(portion, &leg(portion, place))).collect();
            let outcomes = store.write(token, &units).await?;
            if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Lost { .. })) {
                return Err(StageError::new("the store did not take what it is filled with"));
            }
            Ok(outcomes.len() as u64)
        }
    });
    let mut written = stream::iter(written).buffer_unordered(WRITES);
    let mut done = 0;
    while let Some(legs) = written.try_next().await? {
        done += legs;
        progress.at(done, u64::from(network.meetings), "meetings filled");
    }
    drop(written);
    store.release(token).await?;
    store.close().await;
    let name = |portion: &Portion, place| leg(portion, place).head.id;
    let legs = portions.iter().map(|portion| {
        let places = portion.fill.first..portion.fill.first + portion.fill.count;
        (portion.server, places.map(|place| name(portion, place)).collect())
    });
    Ok(Population { legs: legs.collect() })
}

async fn begin(store: &dyn Store, node: &str) -> Result<Token, StageError> {
    let candidate =
        Candidate { node, holder: Holder(uuid::Uuid::now_v7()), lease: 10 * DEADLINE, epoch_above: Epoch(0) };
    match store.begin_term(candidate).await? {
        Begun::Granted(token) => Ok(token),
        Begun::Held(standing) => Err(StageError::new(format!("a store of our own is held by {}", standing.node))),
    }
}

fn leg(portion: &Portion, place: u32) -> Leg {
    let handle = Handle(portion.filled.first_handle.0 + u64::from(place - portion.fill.first));
    portion.fill.leg(DomainId(DOMAIN), place, handle, 0)
}

/// What is stored of a leg that runs, its content included.
fn unit(portion: &Portion, leg: &Leg) -> Option<Unit> {
    let head = &leg.head;
    let info = leg.row()?.clone();
    let key = RecoveryKey {
        leg: head.id,
        domain: DomainId(DOMAIN),
        server: portion.server,
        secret: head.secret.clone(),
        generation: head.generation,
        number: info.number.clone(),
        title: info.title.clone(),
        creator: info.creator,
        creator_name: info.creator_name,
        made_at_ms: info.started_at_ms,
    };
    let row = StoredLeg {
        epoch: head.token.epoch,
        boot: Some(portion.filled.boot),
        handle: Some(head.handle),
        table_revision: portion.filled.table_revision,
        ..StoredLeg::new(&key, StoredState::InMeeting)
    };
    let changes = leg.changes(0, head.mark.revision, false).collect::<Vec<Change>>();
    let content =
        ContentWrite { leg: head.id, domain: row.domain, changes, base: 0, mark: Some(head.mark), full: true };
    Some(Unit { writes: vec![Write::NewLeg(Box::new(NewLeg { row, key })), Write::Content(content)] })
}
