//! A TCP proxy between the daemon and what it stands on (PostgreSQL, Redis, an autonomous server), whose faults are
//! changed while it runs: it stalls, cuts, refuses, delays and corrupts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the proxy does to every connection, those of now included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Everything passes.
    Pass,
    /// Connections stay open and nothing passes; what was sent passes once the fault is over.
    Stall,
    /// Connections are closed, and new ones as soon as they come.
    Refuse,
    /// Everything passes this much later, both ways.
    Delay(Duration),
    /// One byte of everything that comes from the server is another, in the middle of what is read at a time.
    Corrupt,
}

pub(crate) struct FaultProxy {
    pub(crate) address: SocketAddr,
    way: watch::Sender<Way>,
    /// Connections with a lower number are over.
    cut_below: watch::Sender<u64>,
    accepted: Arc<AtomicU64>,
    corrupted: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl FaultProxy {
    pub(crate) async fn to(server: impl Into<String>) -> Self {
        let server = server.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::Pass);
        let (cut_below, cuts) = watch::channel(0);
        let (accepted, corrupted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut accepting = JoinSet::new();
        let (count, flips) = (Arc::clone(&accepted), Arc::clone(&corrupted));
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (server, ways, mut cuts, flips) = (server.clone(), ways.clone(), cuts.clone(), Arc::clone(&flips));
                connections.spawn(async move {
                    let mut refused = ways.clone();
                    tokio::select! {
                        () = forward(client, server, ways, flips) => {}
                        _ = cuts.wait_for(|below| number < *below) => {}
                        _ = refused.wait_for(|way| *way == Way::Refuse) => {}
                    }
                });
            }
        });
        Self { address, way, cut_below, accepted, corrupted, _accepting: accepting }
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Every connection of now is closed; new ones pass.
    pub(crate) fn cut(&self) {
        self.cut_below.send_replace(self.accepted.load(Ordering::SeqCst));
    }

    /// How often something was corrupted.
    pub(crate) fn corrupted(&self) -> u64 {
        self.corrupted.load(Ordering::SeqCst)
    }

    /// `url` with the proxy in place of its host and port.
    pub(crate) fn url(&self, url: &str) -> String {
        let (head, rest) = url.split_once("://").unwrap();
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let user = place.rsplit_once('@').map_or(String::new(), |(user, _)| format!("{user}@"));
        format!("{head}://{user}{}/{path}", self.address)
    }
}

/// The host and port of a URL.
pub(crate) fn place_of(url: &str) -> String {
    let rest = url.split_once("://").unwrap().1;
    let place = rest.split_once('/').map_or(rest, |(place, _)| place);
    place.rsplit_once('@').map_or(place, |(_, place)| place).to_owned()
}

async fn forward(client: TcpStream, server: String, ways: watch::Receiver<Way>, flips: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Either end of the connection ends it.
    tokio::select! {
        () = one_way(from_client, to_server, ways.clone(), None) => {}
        () = one_way(from_server, to_client, ways, Some(flips)) => {}
    }
}

/// `flips` counts what is corrupted, if this way is.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut ways: watch::Receiver<Way>,
    flips: Option<Arc<AtomicU64>>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let Ok(way) = ways.wait_for(|way| *way != Way::Stall).await.map(|way| *way) else { return };
        match (way, &flips) {
            (Way::Delay(pause), _) => tokio::time::sleep(pause).await,
            (Way::Corrupt, Some(flips)) => {
                bytes[length / 2] ^= 0x20;
                flips.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
