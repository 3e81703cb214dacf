//! A simulated server at the size that the demo needs, and what it can do a second.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use crate::simulator_client::*;
use remeet::simulator::{ControlClient, Options, Request, RestartMode};
use remeet_protocol::message::*;
use remeet_protocol::*;

#[tokio::test]
async fn a_full_sized_server_dumps_restarts_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        state: Some(folder.path().join("state")),
        control: Some(folder.path().join("control")),
        ..Options::default()
    };
    let server = simulator_with(options.clone()).await;
    let mut control = ControlClient::connect(options.control.unwrap()).await.unwrap();
    control.create_foreign(1250, 10).await.unwrap();
    let dump = control.dump().await.unwrap();
    assert_eq!((dump.legs.len(), dump.legs[1249].records.len()), (1250, 31));
    control.restart(RestartMode::SameBoot).await.unwrap();
    assert_eq!(control.dump().await.unwrap(), dump);
    let mut scheduler = Scheduler::connect(server.address).await;
    let (entries, _) = scheduler.inventory().await;
    assert!(entries.iter().zip(&dump.legs).all(|(entry, leg)| entry.mark == leg.mark) && entries.len() == 1250);
}

/// A measurement, not a test of behaviour: `cargo test --release --test suite -- --ignored --nocapture a_second`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run by hand on an idle machine"]
async fn packets_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let server = simulator_with(Options { state: Some(folder.path().join("state")), ..Options::default() }).await;
    let mut scheduler = Scheduler::attached(server.address, token(1, 1)).await;
    server.control(Request::CreateForeign { meeting: None, terminals: 10, count: Some(1250) }).await.unwrap();
    scheduler.drain_events().await;
    let legs = server.dump().legs;
    let keep_alives = (0..400_000).map(|_| KeepAlive {}.into()).collect();
    let pulls = (0..40_000).map(|n| {
        let leg = &legs[n % legs.len()];
        Pull { handle: leg.handle, leg: leg.leg, since: 0, upto: 0, after: 0, full: false, packets_max: 9 }.into()
    });
    let starts = (0..2000).map(|n| Command { leg: leg(n), handle: Handle(0), intent: 1, op: start(secret(1)) }.into());
    let adds = (0..20_000_u16).map(|n| {
        let intent = u64::from(n / 2000) + 2;
        Command { leg: leg(n % 2000), handle: Handle(0), intent, op: add(n / 2000) }.into()
    });
    let (pulls, starts, adds) = (pulls.collect(), starts.collect(), adds.collect());
    for (what, requests) in [("keep-alive", keep_alives), ("pull", pulls), ("start", starts), ("add terminal", adds)] {
        let began = std::time::Instant::now();
        let (asked, packets) = pipelined(&mut scheduler, requests).await;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{what}: {asked} requests, {packets} packets back, {:.0} packets/s",
            (asked + packets) as f64 / seconds
        );
    }
}

/// Asks with 64 requests in flight and acknowledges events as they come.
async fn pipelined(scheduler: &mut Scheduler, requests: Vec<Message>) -> (usize, usize) {
    let total = requests.len();
    let (mut asked, mut answered, mut packets) = (0, 0, 0);
    for request in requests {
        scheduler.request += 1;
        let header =
            packet::Header { session: scheduler.session, request: scheduler.request, ..packet::Header::default() };
        scheduler.feed(header, request).await;
        asked += 1;
        if asked - answered < 64 && asked < total {
            continue;
        }
        scheduler.flush().await;
        let until = if asked == total { total } else { asked - 32 };
        while answered < until {
            let packet = scheduler.packet().await.unwrap().unwrap().unwrap();
            packets += 1;
            answered += usize::from(packet.header.flags.has(packet::Flags::FINAL_ANSWER));
            if let Message::Event(Event { number, .. }) = packet.message
                && number % 32 == 0
            {
                let header = packet::Header { session: scheduler.session, ..packet::Header::default() };
                scheduler.send(header, EventAck { number }.into()).await;
            }
        }
    }
    (asked, packets)
}
