//! A TCP proxy whose connections can be made to fall silent, as a lost route or a dead machine makes them:
//! they stay open, and what is sent on them arrives later or never.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) struct Proxy {
    address: String,
    accepted: Arc<AtomicU64>,
    /// Connections with a lower number forward nothing to the server.
    silent_below: watch::Sender<u64>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `server`.
    pub(crate) async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepted = Arc::new(AtomicU64::new(0));
        let (silent_below, silent) = watch::channel(0);
        let mut accepting = JoinSet::new();
        let count = Arc::clone(&accepted);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(forward(client, server.clone(), number, silent.clone()));
            }
        });
        Self { address, accepted, silent_below, _accepting: accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Every connection of now falls silent; later ones work.
    pub(crate) fn silence_existing(&self) {
        self.silent_below.send_replace(self.accepted());
    }

    /// What was held back is forwarded now.
    pub(crate) fn release(&self) {
        self.silent_below.send_replace(0);
    }
}

async fn forward(client: TcpStream, server: String, number: u64, mut silent_below: watch::Receiver<u64>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let upwards = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
            let open = silent_below.wait_for(|below| number >= *below).await.is_ok();
            if !open || to_server.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    };
    let downwards = async move {
        // A client that left does not stop what it had sent from arriving.
        while let Ok(1..) = tokio::io::copy(&mut from_server, &mut to_client).await {}
    };
    tokio::join!(upwards, downwards);
}
