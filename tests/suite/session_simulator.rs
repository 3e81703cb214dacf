//! Session and link against a simulated server, over a real socket: a scheduler that comes back takes
//! everything over, reads everything, and follows a server that restarts.

#![allow(clippy::unwrap_used)]

use remeet::link::{LinkEvent, LinkHandle, LinkOptions, spawn};
use remeet::model::Moment;
use remeet::session::{Heard, Identity, PersistId, Request, Session, Settings, Ticket};
use remeet::simulator::{self, Options, RestartMode, Running, Simulator};
use remeet_protocol::message::*;
use remeet_protocol::proof::{Claim, prove};
use remeet_protocol::record::{LegRow, Mark, Number, RecordState};
use remeet_protocol::wire::Text;
use remeet_protocol::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const SERVER: ServerId = ServerId(1);

/// The smallest driver: moves bytes, keeps time, and lets the test ask.
struct Driver {
    session: Session,
    link: LinkHandle,
    events: mpsc::Receiver<(ServerId, LinkEvent)>,
    begun: Instant,
    tickets: u64,
    heard: Vec<Heard>,
}

impl Driver {
    fn new(server: &Running, holder: u8) -> Self {
        let identity = Identity {
            domain: DomainId(1),
            name: "scheduler".into(),
            holder: Holder::from_bytes([holder; 16]),
            server: SERVER,
        };
        let settings = Settings { server_domain: Some(DomainId(1)), ..Settings::default() };
        let (sender, events) = mpsc::channel(16);
        let link = spawn(LinkOptions::new(SERVER, server.address), sender).unwrap();
        let session = Session::new(identity, settings);
        Self { session, link, events, begun: Instant::now(), tickets: 0, heard: Vec::new() }
    }

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.begun.elapsed().as_micros()).unwrap())
    }

    fn ask(&mut self, request: Request) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.session.ask(self.now(), ticket, request, None);
        ticket
    }

    /// One turn: sends what is to be sent, then waits for the link or the clock.
    async fn turn(&mut self) {
        let packets: Vec<Packet> = std::iter::from_fn(|| self.session.poll_packet()).collect();
        self.link.try_send(packets).unwrap();
        if let Some(reason) = self.session.wants_close() {
            self.link.close_link(reason, Duration::ZERO);
        }
        let wake = self.session.next_wake().map_or(Duration::from_secs(1), |(due, _)| due.since(self.now()));
        let event = tokio::time::timeout(wake, self.events.recv()).await;
        let now = self.now();
        match event {
            Err(_) => self.session.wake(now),
            Ok(None) => panic!("the link ended"),
            Ok(Some((_, LinkEvent::Connected))) => self.session.connected(now),
            Ok(Some((_, LinkEvent::Disconnected(reason)))) => self.session.disconnected(now, &reason),
            Ok(Some((_, LinkEvent::Broken(error)))) => self.session.broken(now, &error),
            Ok(Some((_, LinkEvent::Packets(packets)))) => {
                packets.into_iter().for_each(|packet| self.session.packet(now, packet));
            }
        }
        self.heard.extend(std::iter::from_fn(|| self.session.poll_heard()));
    }

    /// Turns until `take` finds what it looks for.
    async fn until<T>(&mut self, what: &str, mut take: impl FnMut(&mut Vec<Heard>) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = take(&mut self.heard) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: not within 20 s; heard {:?}", self.heard.last());
            self.turn().await;
        }
    }

    async fn up(&mut self) {
        self.until("up", |heard| {
            let place = heard.iter().position(|heard| matches!(heard, Heard::Up { .. }))?;
            Some(heard.drain(..=place).count())
        })
        .await;
    }

    async fn attach(&mut self, token: Token) -> Attached {
        self.ask(Request::Attach(token));
        self.until("attach", |heard| {
            heard.iter().find_map(|heard| match heard {
                Heard::Attached(_, answer) => Some(answer.clone().unwrap()),
                _ => None,
            })
        })
        .await
    }

    async fn inventory(&mut self) -> remeet::session::Inventory {
        self.ask(Request::Inventory);
        self.until("inventory", |heard| {
            heard.iter().find_map(|heard| match heard {
                Heard::Inventory(_, answer) => Some(answer.clone().unwrap()),
                _ => None,
            })
        })
        .await
    }

    /// Reads these legs whole; answers what the rows of each add up to.
    async fn pull(&mut self, legs: &[(Handle, LegId)]) -> BTreeMap<LegId, (Mark, Mark)> {
        for (handle, leg) in legs {
            self.ask(Request::Pull { handle: *handle, leg: *leg, since: 0 });
        }
        let mut counted: BTreeMap<LegId, Mark> = BTreeMap::new();
        let mut done = BTreeMap::new();
        let count = legs.len();
        self.until("pulls", |heard| {
            heard.retain(|heard| {
                let Heard::Pulled(_, answer) = heard else { return true };
                let page = answer.as_ref().unwrap();
                assert!(page.full);
                let mark = counted.entry(page.leg).or_default();
                for change in &page.changes {
                    let RecordState::Present(record) = &change.state else { panic!("a removal in a full pull") };
                    mark.count(record, true);
                    mark.revision = change.revision;
                }
                done.extend(page.complete.map(|end| (page.leg, (*mark, end))));
                false
            });
            (done.len() == count).then(|| std::mem::take(&mut done))
        })
        .await
    }
}

fn token(epoch: u64, holder: u8) -> Token {
    Token { epoch: Epoch(epoch), holder: Holder::from_bytes([holder; 16]) }
}

fn leg(number: u64) -> LegId {
    LegId { meeting: MeetingId::from_bytes(u128::from(number).to_be_bytes()), leg: 0 }
}

fn secret(number: u64) -> Secret {
    Secret::new(u128::from(number).to_be_bytes())
}

fn start(number: u64) -> Command {
    let text = |text: &str| Number::new(text).unwrap();
    let row = LegRow {
        number: text(&number.to_string()),
        title: Text::cut("meeting"),
        creator: text("1"),
        creator_name: Text::cut("somebody"),
        chair: text(""),
        first_speaker: text(""),
        second_speaker: text(""),
        started_at_ms: 0,
    };
    let op = Op::Start(Start { secret: secret(number), generation: 1, row });
    Command { leg: leg(number), handle: Handle(0), intent: 1, op }
}

#[tokio::test]
async fn a_scheduler_that_comes_back_takes_over_and_reads_what_a_server_carries() {
    const LEGS: u64 = 150;
    let folder = tempfile::tempdir().unwrap();
    let options = Options { state: Some(folder.path().join("state")), ..Options::default() };
    let server = Simulator::spawn(options).await.unwrap();

    // The first term starts meetings, then is gone without a word.
    let mut first = Driver::new(&server, 1);
    first.up().await;
    first.attach(token(1, 1)).await;
    let now = first.now();
    for number in 1..=LEGS {
        first.session.ask(now, Ticket(number), Request::Command(start(number)), Some(PersistId(number)));
    }
    (1..=LEGS).for_each(|number| first.session.stored(now, PersistId(number)));
    let mut started = 0;
    first
        .until("starts", |heard| {
            started += heard
                .drain(..)
                .filter(|heard| matches!(heard, Heard::Commanded(_, Ok(answer)) if answer.code.is_ok()))
                .count();
            (started as u64 == LEGS).then_some(())
        })
        .await;
    drop(first);
    server.control(simulator::Request::CreateForeign { meeting: None, terminals: 10, count: Some(400) }).await.unwrap();

    // The second term: inventory, attach, takeover with proofs, pulls.
    let mut second = Driver::new(&server, 2);
    second.up().await;
    let inventory = second.inventory().await;
    assert_eq!(inventory.entries.len() as u64, LEGS + 400);
    let attached = second.attach(token(2, 2)).await;
    assert_eq!((attached.boot, attached.table_revision), (inventory.boot, inventory.table_revision));
    let ours: Vec<_> =
        inventory.entries.iter().filter(|entry| entry.leg.meeting.0.as_u128() <= u128::from(LEGS)).collect();
    let claims = ours
        .iter()
        .map(|entry| {
            let claim =
                Claim { server: SERVER, boot: attached.boot, handle: entry.handle, leg: entry.leg, token: token(2, 2) };
            let number = u64::try_from(entry.leg.meeting.0.as_u128()).unwrap();
            TakeoverClaim { handle: entry.handle, leg: entry.leg, proof: prove(&secret(number), &claim) }
        })
        .collect();
    second.ask(Request::Takeover(claims));
    let mut taken = 0;
    second
        .until("takeovers", |heard| {
            for heard in heard.iter() {
                if let Heard::Takeover(_, answer) = heard {
                    let results = &answer.as_ref().unwrap().results;
                    assert!(results.iter().all(|result| result.code.is_ok()), "{results:?}");
                    taken += results.len();
                }
            }
            heard.retain(|heard| !matches!(heard, Heard::Takeover(..)));
            (taken as u64 == LEGS).then_some(())
        })
        .await;
    let all: Vec<_> = inventory.entries.iter().map(|entry| (entry.handle, entry.leg)).collect();
    let pulled = second.pull(&all).await;
    let dump = server.dump();
    for truth in &dump.legs {
        let (rows, end) = pulled[&truth.leg];
        assert_eq!((rows.count, rows.digest, end), (truth.mark.count, truth.mark.digest, truth.mark), "{}", truth.leg);
    }

    // Events, also of what happened while nobody was there; acknowledged, they are forgotten.
    let waiting = dump.events_waiting as u64;
    let mut last = 0;
    second
        .until("events", |heard| {
            last = heard
                .iter()
                .filter_map(|heard| if let Heard::Event(event) = heard { Some(event.number) } else { None })
                .max()
                .unwrap_or(last);
            (last >= waiting.min(256)).then_some(())
        })
        .await;
    second.heard.clear();
    while server.dump().events_waiting > 0 {
        if let (Some(heard), _) = second.session.event_numbers() {
            second.session.acknowledge(heard);
        }
        second.turn().await;
        assert!(second.begun.elapsed() < Duration::from_secs(20), "{} events wait", server.dump().events_waiting);
    }
    assert!(!second.heard.iter().any(|heard| matches!(heard, Heard::Gap(_) | Heard::Misbehaved { .. })));

    // The server restarts with its table: the link and the session come back by themselves.
    second.heard.clear();
    server.control(simulator::Request::Restart { mode: RestartMode::SameBoot, down_ms: 200 }).await.unwrap();
    let restarted = Instant::now();
    second.up().await;
    assert!(restarted.elapsed() < Duration::from_secs(3));
    assert_eq!(second.session.boot(), Some(inventory.boot));
    second.attach(token(2, 2)).await;
    assert_eq!(second.session.counters().misbehaviours, BTreeMap::new());
    second.link.close().await;
    server.stop().await.unwrap();
}
