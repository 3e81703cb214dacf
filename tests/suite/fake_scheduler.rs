//! A scheduler's side of client connections, as small as can be: each packet goes to a script, which says
//! what comes back. It answers lies and silence where a test wants them.

use futures_util::{SinkExt, StreamExt};
use remeet_protocol::address::Address;
use remeet_protocol::message::{ClientAnswer, ClientCommand, Failure, Goodbye, Role, Welcome};
use remeet_protocol::wire::Text;
use remeet_protocol::{BootId, DomainId, ErrorCode, Flags, Header, LegId, MeetingId, Message, Packet, PacketCodec};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::codec::Framed;

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What comes back for a packet.
pub(crate) enum Back {
    /// An answer's message, under the request's id.
    Answer(Message),
    /// A message under no request's id.
    Notice(Message),
    /// The connection is closed without a word.
    Close,
}

impl Back {
    pub(crate) fn answer(message: impl Into<Message>) -> Self {
        Back::Answer(message.into())
    }
}

/// What was received, in order.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Number of the connection, from 1.
    pub(crate) connection: u32,
    /// When.
    pub(crate) at: Instant,
    /// The packet.
    pub(crate) packet: Packet,
}

impl Heard {
    pub(crate) fn command(&self) -> Option<&ClientCommand> {
        match &self.packet.message {
            Message::ClientCommand(command) => Some(command),
            _ => None,
        }
    }
}

#[derive(Clone)]
pub(crate) struct FakeScheduler {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl FakeScheduler {
    /// Listens on loopback. `script` answers every packet, the hello included: see [`welcome`].
    pub(crate) async fn start<S>(script: S) -> Self
    where
        S: FnMut(&Heard) -> Vec<Back> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), heard: Arc::default() };
        tokio::spawn(serve(listener, Arc::clone(&fake.heard), Arc::new(Mutex::new(script))));
        fake
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub(crate) fn commands(&self) -> Vec<(u32, ClientCommand)> {
        self.heard().iter().filter_map(|heard| Some((heard.connection, heard.command()?.clone()))).collect()
    }

    /// Waits until `condition` holds of what was heard.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&[Heard]) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(&self.heard()) {
            assert!(Instant::now() < deadline, "{what}: not within the deadline; heard {:?}", self.heard());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn serve<S>(listener: TcpListener, heard: Arc<Mutex<Vec<Heard>>>, script: Arc<Mutex<S>>)
where
    S: FnMut(&Heard) -> Vec<Back> + Send + 'static,
{
    let mut connection = 0;
    while let Ok((stream, _)) = listener.accept().await {
        connection += 1;
        let (heard, script) = (Arc::clone(&heard), Arc::clone(&script));
        tokio::spawn(async move {
            let mut framed = Framed::new(stream, PacketCodec::stream());
            while let Some(Ok(Ok(packet))) = framed.next().await {
                let item = Heard { connection, at: Instant::now(), packet };
                heard.lock().unwrap().push(item.clone());
                let back = (*script.lock().unwrap())(&item);
                for back in back {
                    let (message, request) = match back {
                        Back::Close => return,
                        Back::Answer(message) => (message, item.packet.header.request),
                        Back::Notice(message) => (message, 0),
                    };
                    let header = Header { flags: Flags::ANSWER, session: 0, request, index: 0, ..Header::default() };
                    let (destination, source) = (item.packet.source, Address::scheduler(DomainId(1)));
                    if framed.send(Packet { destination, source, header, message }).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// The answer to a hello, of term 1.
pub(crate) fn welcome() -> Vec<Back> {
    vec![Back::answer(Welcome {
        role: Role::Scheduler,
        version: remeet_protocol::packet::VERSION,
        domain: DomainId(1),
        id: 0,
        name: Text::cut("fake"),
        boot: BootId::default(),
        table_revision: 1,
        keep_alive_ms: 1_000,
    })]
}

/// The answer to a command.
pub(crate) fn answer(command: &ClientCommand, code: ErrorCode, retry_after_ms: u32) -> Vec<Back> {
    vec![Back::answer(ClientAnswer {
        instance: command.instance,
        number: command.number,
        code,
        retry_after_ms,
        detail: Text::default(),
        meeting: command.meeting,
    })]
}

pub(crate) fn failure(code: ErrorCode) -> Vec<Back> {
    vec![Back::answer(Failure::new(code, "as the test wants it"))]
}

pub(crate) fn goodbye(retry_after_ms: u32) -> Vec<Back> {
    let goodbye = Goodbye { code: ErrorCode::BUSY, detail: Text::cut("restarting"), retry_after_ms };
    vec![Back::Notice(goodbye.into()), Back::Close]
}

/// A meeting's id out of a number.
pub(crate) fn meeting(number: u16) -> MeetingId {
    let mut bytes = [0; 16];
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    MeetingId::from_bytes(bytes)
}

pub(crate) fn leg(number: u16) -> LegId {
    LegId { meeting: meeting(number), leg: 0 }
}
