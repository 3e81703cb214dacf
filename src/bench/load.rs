//! Clients that command as fast as they are answered, and subscribers that count.

use crate::cms::client::{Client, ClientSettings, Notice, Subscription};
use crate::simulator::Fill;
use crate::stage::{Stage, StageError};
use futures_util::future::{join_all, try_join_all};
use remeet_protocol::MeetingId;
use remeet_protocol::message::{ClientOp, SetExtra};
use remeet_protocol::wire::{Blob, Text};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A meeting, and its place among all: its terminals' numbers are made of that.
pub(super) type Target = (MeetingId, u32);

/// Connects clients; their numbers are from 1.
pub(super) async fn connect(stage: &Stage, clients: &[(u32, String)]) -> Result<Vec<Client>, StageError> {
    let connected = clients.iter().map(|(id, name)| {
        let settings = ClientSettings::new(stage.schedulers[0].clients_at, *id, Text::cut(name));
        async move { Client::connect(settings).await.map_err(|error| StageError::new(format!("{name}: {error}"))) }
    });
    try_join_all(connected).await
}

/// How long each command took.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    sorted: Vec<Duration>,
    pub(super) took: Duration,
}

impl Latencies {
    pub(super) fn count(&self) -> u64 {
        self.sorted.len() as u64
    }

    pub(super) fn per_second(&self) -> u64 {
        // A rate is no large number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rate = (self.sorted.len() as f64 / self.took.as_secs_f64().max(0.001)) as u64;
        rate
    }

    /// Milliseconds, of this part of the commands at most.
    pub(super) fn at(&self, part: f64) -> f64 {
        // From 0 to the length less one.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let place = (part * self.sorted.len().saturating_sub(1) as f64) as usize;
        let millis = self.sorted.get(place).copied().unwrap_or_default().as_secs_f64() * 1_000.0;
        (millis * 100.0).round() / 100.0
    }
}

/// Clients that command until they are told to stop: each has so many commands open, each on a meeting of its own.
pub(super) struct Drive {
    stop: Arc<AtomicBool>,
    begun: Instant,
    workers: Vec<tokio::task::JoinHandle<Result<Vec<Duration>, String>>>,
}

impl Drive {
    pub(super) fn begin(clients: &[Client], in_flight: u32, targets: &[Target]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let all = clients.len() * in_flight as usize;
        let mut workers = Vec::with_capacity(all);
        for place in 0..all {
            let client = clients[place % clients.len()].clone();
            let own: Vec<Target> = targets.iter().skip(place).step_by(all).copied().collect();
            workers.push(tokio::spawn(work(client, own, Arc::clone(&stop))));
        }
        Self { stop, begun: Instant::now(), workers }
    }

    /// Ends it once each has its answer.
    pub(super) async fn end(self) -> Result<Latencies, StageError> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sorted = Vec::new();
        for worker in join_all(self.workers).await {
            sorted.extend(worker.map_err(StageError::new)?.map_err(StageError::new)?);
        }
        let took = self.begun.elapsed();
        sorted.sort_unstable();
        Ok(Latencies { sorted, took })
    }
}

async fn work(client: Client, targets: Vec<Target>, stop: Arc<AtomicBool>) -> Result<Vec<Duration>, String> {
    let mut latencies = Vec::new();
    for (round, (meeting, place)) in targets.iter().cycle().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let op = SetExtra {
            number: Fill::number(*place, 0),
            key: Text::cut("seat"),
            value: Blob::new(round.to_string().into_bytes()).ok(),
        };
        let begun = Instant::now();
        let answer = client.command(*meeting, ClientOp::SetExtra(op)).await.map_err(|error| error.to_string())?;
        if !answer.code.is_ok() {
            return Err(format!("meeting {meeting}: {}: {}", answer.code, answer.detail));
        }
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

/// Subscribes them all to everything, and takes the snapshots.
pub(super) async fn subscribe(clients: &[Client]) -> Result<Vec<Subscription>, StageError> {
    let each = clients.iter().map(|client| async {
        let mut subscription = client.subscribe(None).await.map_err(StageError::new)?;
        match subscription.next().await {
            Some(Notice::Snapshot { .. }) => Ok(subscription),
            other => Err(StageError::new(format!("a subscription begins with {other:?}, not with a snapshot"))),
        }
    });
    try_join_all(each).await
}

/// Waits until each subscriber has been told of so many events; none may be reset meanwhile.
pub(super) async fn heard(subscriptions: &mut [Subscription], events: u64, within: Duration) -> Result<(), StageError> {
    let each = subscriptions.iter_mut().map(|subscription| async {
        for _ in 0..events {
            match timeout(within, subscription.next()).await {
                Ok(Some(Notice::Event(_))) => {}
                Ok(other) => return Err(StageError::new(format!("a subscriber was too slow: it is told {other:?}"))),
                Err(_) => return Err(StageError::new(format!("an event did not come within {} s", within.as_secs()))),
            }
        }
        Ok(())
    });
    try_join_all(each).await.map(drop)
}
