//! One address for the clients of a pair: leads to whichever scheduler commands, as a floating address would.

use crate::stage::StageError;
use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections at once: a handful of clients and what they have just left.
const CONNECTIONS_MAX: usize = 64;

/// Dropping it ends every connection.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Gate {
    /// Opens it, towards `target`.
    pub(crate) async fn open(target: SocketAddr) -> Result<Self, StageError> {
        let failed = |error: std::io::Error| StageError::new(format!("the clients' gate: {error}"));
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let target = watch::Sender::new(target);
        let mut tasks = JoinSet::new();
        tasks.spawn(admit(listener, target.subscribe()));
        Ok(Self { address, target, _tasks: tasks })
    }

    /// From now on it leads to `target`; connections to another one are cut. What was sent on them stays with the
    /// one to which it was sent.
    pub(crate) fn turn(&self, target: SocketAddr) {
        self.target.send_if_modified(|present| std::mem::replace(present, target) != target);
    }
}

async fn admit(listener: TcpListener, target: watch::Receiver<SocketAddr>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if tasks.len() < CONNECTIONS_MAX {
                    tasks.spawn(lead(stream, target.clone()));
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn lead(mut client: TcpStream, mut target: watch::Receiver<SocketAddr>) {
    let address = *target.borrow_and_update();
    let both = async {
        let Ok(mut scheduler) = TcpStream::connect(address).await else { return };
        let _ = client.set_nodelay(true).and_then(|()| scheduler.set_nodelay(true));
        let _ = copy_bidirectional(&mut client, &mut scheduler).await;
    };
    tokio::select! {
        () = both => {}
        _ = target.changed() => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_turned_gate_cuts_and_leads_elsewhere() {
        let (one, two) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let gate = Gate::open(one.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(gate.address).await.unwrap();
        let (mut at_one, _) = one.accept().await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(at_one.read_u8().await.unwrap(), b'a');
        gate.turn(two.local_addr().unwrap());
        assert_eq!(client.read(&mut [0; 1]).await.unwrap_or(0), 0, "the old connection is cut");
        let mut client = TcpStream::connect(gate.address).await.unwrap();
        let (mut at_two, _) = two.accept().await.unwrap();
        at_two.write_all(b"b").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
    }
}
