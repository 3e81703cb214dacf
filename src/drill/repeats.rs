//! Sends answered commands a second time, with the same ids: the answers must be the first ones (rule 11).
//!
//! The client library does not repeat what is answered; this does, over a connection of its own.

use super::flow::Said;
use crate::stage::StageError;
use futures_util::{SinkExt, StreamExt};
use remeet_protocol::message::{ClientAnswer, Hello, Role};
use remeet_protocol::packet::{Header, VERSION};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, DomainId, ErrorCode, Holder, Message, Packet, PacketCodec};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::codec::Framed;

/// Of each client's commands the last so many are repeated: below the 256 answers that the scheduler keeps.
pub(crate) const REPEATED_MAX: usize = 100;
/// All are answered within this.
const ANSWERS: Duration = Duration::from_secs(30);
/// A pause before those that were put off are sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// Who repeats.
pub(crate) struct Repeater {
    pub(crate) address: SocketAddr,
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) domain: DomainId,
}

impl Repeater {
    /// Repeats the last of `said`. Says how many, and which were answered otherwise than at first.
    pub(crate) async fn repeat(&self, said: &[&Said]) -> Result<(u64, Vec<String>), StageError> {
        let said = &said[said.len().saturating_sub(REPEATED_MAX)..];
        let mut open: BTreeMap<(u64, u64), &Said> =
            said.iter().map(|said| ((said.command.instance, said.command.number), *said)).collect();
        let count = open.len() as u64;
        let mut wrong = Vec::new();
        let deadline = Instant::now() + ANSWERS;
        let failed = |reason: &dyn std::fmt::Display| StageError::new(format!("repeating answered commands: {reason}"));
        let late = |_| failed(&format!("not all answered within {} s", ANSWERS.as_secs()));
        let work = async {
            let mut packets = self.connect().await.map_err(|error| failed(&error))?;
            while !open.is_empty() {
                let mut request = 1;
                for said in open.values() {
                    request += 1;
                    let packet = self.packet(request, said.command.clone().into());
                    packets.feed(packet).await.map_err(|error| failed(&error))?;
                }
                SinkExt::<Packet>::flush(&mut packets).await.map_err(|error| failed(&error))?;
                let mut awaited = open.len();
                while awaited > 0 {
                    let Message::ClientAnswer(answer) = next(&mut packets).await.map_err(|error| failed(&error))?
                    else {
                        continue;
                    };
                    awaited -= 1;
                    if matches!(answer.code, ErrorCode::RETRY | ErrorCode::UNAVAILABLE | ErrorCode::BUSY) {
                        continue;
                    }
                    if let Some(said) = open.remove(&(answer.instance, answer.number))
                        && let Some(text) = difference(said, &answer)
                    {
                        wrong.push(text);
                    }
                }
                if !open.is_empty() {
                    sleep(AGAIN).await;
                }
            }
            Ok::<(), StageError>(())
        };
        timeout_at(deadline, work).await.map_err(late)??;
        Ok((count, wrong))
    }

    async fn connect(&self) -> Result<Framed<TcpStream, PacketCodec>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let mut packets = Framed::new(stream, PacketCodec::stream());
        let hello = Hello {
            role: Role::Client,
            version_min: VERSION,
            version_max: VERSION,
            instance: Holder::default(),
            id: self.id,
            name: Text::cut(&self.name),
        };
        packets.send(self.packet(1, hello.into())).await.map_err(|error| error.to_string())?;
        match next(&mut packets).await? {
            Message::Welcome(_) => Ok(packets),
            other => Err(format!("the hello was answered with {}", other.name())),
        }
    }

    fn packet(&self, request: u64, message: Message) -> Packet {
        Packet {
            destination: Address::scheduler(self.domain),
            source: Address::client(self.id),
            header: Header { request, ..Header::default() },
            message,
        }
    }
}

async fn next(packets: &mut Framed<TcpStream, PacketCodec>) -> Result<Message, String> {
    match packets.next().await {
        Some(Ok(Ok(packet))) => Ok(packet.message),
        Some(Ok(Err(rejected))) => Err(rejected.to_string()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the scheduler closed the connection".to_owned()),
    }
}

fn difference(said: &Said, again: &ClientAnswer) -> Option<String> {
    let first = &said.answer;
    let same = (first.code, &first.detail, first.meeting) == (again.code, &again.detail, again.meeting);
    (!same).then(|| {
        format!(
            "{} of meeting {}, command {} of instance {:016x}: first answered {}: {:?}, the repeat {}: {:?}",
            said.command.op.name(),
            said.command.meeting,
            again.number,
            again.instance,
            first.code,
            first.detail.as_str(),
            again.code,
            again.detail.as_str()
        )
    })
}
