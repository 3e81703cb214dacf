//! Bad input to a simulated server, the faults that it can be told to have, and its control socket.

#![allow(clippy::unwrap_used)]

use crate::simulator_client::*;
use bytes::BytesMut;
use remeet::simulator::{ControlClient, Misbehaviour, Options, Request, RestartMode, Script, Simulator};
use remeet_protocol::message::*;
use remeet_protocol::packet::{Header, Packet, VERSION};
use remeet_protocol::*;
use std::time::{Duration, Instant};

fn bytes(message: impl Into<Message>, request: u64) -> Vec<u8> {
    let header = Header { request, ..Header::default() };
    let mut out = BytesMut::new();
    Packet { destination: Address::default(), source: Address::default(), header, message: message.into() }
        .write(&mut out)
        .unwrap();
    out.to_vec()
}

#[tokio::test]
async fn a_handshake_with_a_wrong_version_identity_or_none_is_refused_and_closed() {
    let server = simulator().await;
    let hellos: [(Message, ErrorCode); 5] = [
        (hello(0x30, 0x3f, Role::Scheduler, 1).into(), ErrorCode::WRONG_VERSION),
        (hello(0x10, 0x1f, Role::Scheduler, 1).into(), ErrorCode::WRONG_VERSION),
        (hello(VERSION, VERSION, Role::Client, 1).into(), ErrorCode::UNKNOWN_IDENTITY),
        (hello(VERSION, VERSION, Role::Scheduler, 2).into(), ErrorCode::UNKNOWN_IDENTITY),
        (Query { cut: 0, after: 0, packets_max: 1 }.into(), ErrorCode::UNKNOWN_IDENTITY),
    ];
    for (message, code) in hellos {
        let mut peer = Scheduler::dial(server.address).await;
        assert_eq!(peer.failure(message).await.code, code);
        assert!(peer.closed().await);
    }
    assert_eq!(server.stats().handshakes_refused, 5);
    // A hello again is answered again.
    let mut peer = Scheduler::connect(server.address).await;
    assert!(matches!(peer.one(hello(0x10, 0x2f, Role::Scheduler, 1)).await, Message::Welcome(_)));
}

#[tokio::test]
async fn a_frame_that_cannot_be_trusted_closes_its_connection_and_no_other() {
    let server = simulator().await;
    let mut bystander = Scheduler::attached(server.address, token(1, 1)).await;
    bystander.meeting(1, 2).await;
    let truth = server.dump();
    let good = bytes(KeepAlive {}, 1);
    let mut wrong_crc = good.clone();
    *wrong_crc.last_mut().unwrap() ^= 1;
    let mut wrong_version = good.clone();
    wrong_version[18] = 0x90;
    let mut too_long = good.clone();
    too_long[22..24].copy_from_slice(&2000_u16.to_be_bytes());
    let garbage = vec![0xa5; 500];
    for (place, bad) in [wrong_crc, wrong_version, too_long, garbage].into_iter().enumerate() {
        let mut peer = Scheduler::connect(server.address).await;
        peer.send_bytes(&bad).await;
        assert!(peer.closed().await, "bad frame {place}");
    }
    assert_eq!(server.stats().bad_frames, 4);
    assert_eq!(server.dump(), truth);
    bystander.one(KeepAlive {}).await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_or_is_not_known_is_answered_and_the_connection_stays() {
    let server = simulator().await;
    let mut peer = Scheduler::attached(server.address, token(1, 1)).await;
    // Attach with three bytes; Command with an unknown operation; an unknown type; a client's message.
    let short = Message::Unknown { kind: 0x0111, body: bytes::Bytes::from_static(&[1, 2, 3]) };
    assert_eq!(peer.failure(short).await.code, ErrorCode::MALFORMED);
    let mut body = BytesMut::new();
    wire::Wire::put(&leg(1), &mut body);
    body.extend_from_slice(&[0; 16]);
    body.extend_from_slice(&[99]);
    let unknown_operation = Message::Unknown { kind: 0x0131, body: body.freeze() };
    assert_eq!(peer.failure(unknown_operation).await.code, ErrorCode::UNSUPPORTED);
    let unknown = Message::Unknown { kind: 0x7abc, body: bytes::Bytes::from_static(b"later") };
    assert_eq!(peer.failure(unknown.clone()).await.code, ErrorCode::UNSUPPORTED);
    assert_eq!(peer.failure(Subscribe { meeting: None }).await.code, ErrorCode::UNSUPPORTED);
    peer.send(Header::default(), unknown).await;
    peer.one(KeepAlive {}).await;
    let stats = server.stats();
    assert_eq!((stats.malformed, stats.unknown), (2, 3));
    assert_eq!(peer.command(leg(1), 1, start(secret(1))).await.code, ErrorCode::OK, "no harm was done");
}

#[tokio::test]
async fn a_packet_cut_into_single_bytes_is_read_as_one() {
    let server = simulator().await;
    let mut peer = Scheduler::connect(server.address).await;
    for byte in bytes(KeepAlive {}, 7) {
        peer.send_bytes(&[byte]).await;
    }
    let packet = peer.packet().await.unwrap().unwrap().unwrap();
    assert!(matches!(packet.message, Message::KeepAliveAnswer(_)) && packet.header.request == 7);
}

#[tokio::test]
async fn connections_are_bounded_and_one_too_many_is_told_to_come_later() {
    let server = simulator().await;
    let mut peers = Vec::new();
    for _ in 0..64 {
        peers.push(Scheduler::connect(server.address).await);
    }
    let mut late = Scheduler::dial(server.address).await;
    assert_eq!(late.notice().await, Notice::Goodbye(ErrorCode::BUSY));
    assert!(late.closed().await);
    peers[0].one(KeepAlive {}).await;
}

#[tokio::test]
async fn a_silent_peer_is_asked_then_cut() {
    let server = simulator_with(Options { keep_alive_ms: 100, ..Options::default() }).await;
    let mut peer = Scheduler::connect(server.address).await;
    let began = Instant::now();
    let packet = peer.packet().await.unwrap().unwrap().unwrap();
    assert!(matches!(packet.message, Message::KeepAlive(_)), "{packet:?}");
    assert!(peer.closed().await);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_and_no_other_waits_for_it() {
    let server = simulator_with(Options { keep_alive_ms: 200, ..Options::default() }).await;
    server.control(Request::CreateForeign { meeting: None, terminals: 20, count: Some(200) }).await.unwrap();
    let mut deaf = Scheduler::connect(server.address).await;
    // Far more answers than socket buffers and queue hold, and nobody reads them.
    let asking = async {
        for request in 1.. {
            let header = Header { request, ..Header::default() };
            deaf.feed_or_end(header, Query { cut: 0, after: 0, packets_max: 256 }.into()).await?;
        }
        Some(())
    };
    let watching = async {
        let mut other = Scheduler::connect(server.address).await;
        while server.stats().slow_readers == 0 {
            let began = Instant::now();
            other.one(KeepAlive {}).await;
            assert!(began.elapsed() < Duration::from_secs(1), "the others are served meanwhile");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let both = tokio::time::timeout(3 * DEADLINE, async { tokio::join!(asking, watching) });
    both.await.expect("the deaf peer is cut in time");
}

#[tokio::test]
async fn a_server_runs_until_it_is_told_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    let stop = tokio_util::sync::CancellationToken::new();
    let options = Options { control: Some(control.clone()), ..Options::default() };
    let server = tokio::spawn(remeet::simulator::run(options, stop.clone()));
    until(|| async { ControlClient::connect(&control).await.is_ok() }).await;
    stop.cancel();
    tokio::time::timeout(DEADLINE, server).await.unwrap().unwrap().unwrap();
    assert!(!control.exists());
}

#[tokio::test]
async fn latency_delays_answers_and_a_hang_answers_nothing_until_it_ends() {
    let server = simulator().await;
    let mut peer = Scheduler::connect(server.address).await;
    server.control(Request::SetLatency { ms: 150 }).await.unwrap();
    let began = Instant::now();
    peer.one(KeepAlive {}).await;
    assert!(began.elapsed() >= Duration::from_millis(150));
    server.control(Request::SetLatency { ms: 0 }).await.unwrap();

    server.control(Request::Hang { on: true }).await.unwrap();
    let mut other = Scheduler::dial(server.address).await; // It still accepts.
    peer.send(Header { request: 50, ..Header::default() }, KeepAlive {}.into()).await;
    other.send(Header { request: 1, ..Header::default() }, hello(VERSION, VERSION, Role::Scheduler, 1).into()).await;
    let silence = tokio::time::timeout(Duration::from_millis(300), peer.packet()).await;
    assert!(silence.is_err(), "{silence:?}");
    server.control(Request::Hang { on: false }).await.unwrap();
    assert!(matches!(peer.packet().await.unwrap().unwrap().unwrap().message, Message::KeepAliveAnswer(_)));
    assert!(matches!(other.packet().await.unwrap().unwrap().unwrap().message, Message::Welcome(_)));
}

#[tokio::test]
async fn a_cut_link_drops_and_refuses_connections_while_meetings_go_on() {
    let server = simulator().await;
    let mut peer = Scheduler::attached(server.address, token(1, 1)).await;
    peer.meeting(1, 4).await;
    let before = server.dump().legs[0].mark;
    server.control(Request::CutLink { on: true }).await.unwrap();
    assert!(peer.closed().await);
    assert!(Scheduler::dial(server.address).await.closed().await);
    let script = Script { seed: 3, fraction: 1.0, meetings: None, kinds: Vec::new() };
    server.control(Request::Change(script)).await.unwrap();
    server.control(Request::CutLink { on: false }).await.unwrap();
    let mut peer = Scheduler::attached(server.address, token(1, 1)).await;
    let event = peer.event().await;
    assert_eq!(event.previous, before.revision, "what happened meanwhile is told");
}

#[tokio::test]
async fn each_misbehaviour_is_seen_by_a_peer_that_looks() {
    let server = simulator().await;
    let mut peer = Scheduler::attached(server.address, token(1, 1)).await;
    let handle = peer.meeting(1, 2).await;
    let mark = server.dump().legs[0].mark;
    for kind in [
        Misbehaviour::Garbage,
        Misbehaviour::WrongCrc,
        Misbehaviour::WrongVersion,
        Misbehaviour::LyingLength,
        Misbehaviour::CutPacket,
    ] {
        let mut victim = Scheduler::connect(server.address).await;
        server.control(Request::Misbehave { kind }).await.unwrap();
        victim.send(Header { request: 5, ..Header::default() }, KeepAlive {}.into()).await;
        let answer = victim.packet().await;
        assert!(matches!(answer, Some(Err(_))), "{kind:?}: {answer:?}");
        server.control(Request::Misbehave { kind: Misbehaviour::None }).await.unwrap();
    }
    let query = Query { cut: 0, after: 0, packets_max: 9 };
    server.control(Request::Misbehave { kind: Misbehaviour::LyingCount }).await.unwrap();
    let answer = peer.ask(query.clone()).await;
    assert!(matches!(answer.last(), Some(Message::InventoryEnd(end)) if end.total == 2 && end.page_entries == 2));
    server.control(Request::Misbehave { kind: Misbehaviour::EndlessPages }).await.unwrap();
    let (_, mut end) = peer.page(query).await;
    for _ in 0..20 {
        let (entries, next) = peer.page(Query { cut: end.cut, after: end.after, packets_max: 9 }).await;
        assert!(!next.complete && entries.len() == 1 && next.after > end.after);
        end = next;
    }
    server.control(Request::Misbehave { kind: Misbehaviour::WrongDigest }).await.unwrap();
    let told = peer.take_over_one(leg(1), handle, &secret(1)).await.mark;
    assert!(told.digest != mark.digest && told.revision == mark.revision);
    server.control(Request::Misbehave { kind: Misbehaviour::UnknownTypes }).await.unwrap();
    peer.send(Header { request: 900, ..Header::default() }, KeepAlive {}.into()).await;
    assert!(matches!(peer.packet().await, Some(Ok(Ok(Packet { message: Message::Unknown { .. }, .. })))));
    assert!(matches!(peer.packet().await, Some(Ok(Err(_)))), "a body that cannot be read");
    assert!(matches!(peer.packet().await, Some(Ok(Ok(Packet { message: Message::KeepAliveAnswer(_), .. })))));
}

#[tokio::test]
async fn the_control_socket_tells_the_truth_and_does_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    // What a killed server leaves behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = simulator_with(Options { control: Some(path.clone()), ..Options::default() }).await;
    let taken = Simulator::spawn(Options { control: Some(path.clone()), ..Options::default() }).await;
    assert!(taken.is_err(), "a socket in use is not taken away");

    let mut control = ControlClient::connect(&path).await.unwrap();
    let mut peer = Scheduler::attached(server.address, token(3, 3)).await;
    peer.meeting(1, 4).await;
    let foreign = control.create_foreign(2, 3).await.unwrap();
    assert_eq!(foreign.len(), 2);
    let dump = control.dump().await.unwrap();
    assert_eq!(dump, server.dump(), "nothing is lost on the way through JSON");
    assert_eq!((dump.legs.len(), dump.highest_token), (3, Some(token(3, 3))));

    let script = Script { seed: 8, fraction: 0.5, meetings: None, kinds: Vec::new() };
    let changed = control.change(script).await.unwrap();
    assert_eq!(changed.len(), 2);
    for leg in &changed {
        let now = server.dump().legs.into_iter().find(|now| now.leg == leg.leg).unwrap();
        assert!(now.mark == leg.mark && leg.previous < leg.mark.revision && leg.changes.len() == 4, "{leg:?}");
    }
    let script = Script { seed: 8, fraction: 0.0, meetings: Some(vec![leg(1).meeting]), kinds: Vec::new() };
    assert_eq!(control.change(script).await.unwrap()[0].leg, leg(1));
    control.end_leg(leg(1).meeting).await.unwrap();
    let refused = control.end_leg(leg(1).meeting).await.unwrap_err();
    assert!(refused.to_string().contains("no live leg"), "{refused}");
    assert_eq!(control.stats().await.unwrap(), server.stats());
    let status = control.call(&Request::Status).await.unwrap();
    assert_eq!((&status["legs_live"], &status["tombstones"]), (&2.into(), &1.into()));
    control.restart(RestartMode::NewBoot).await.unwrap();
    assert!(control.dump().await.unwrap().legs.is_empty());
    server.stop().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_control_request_that_is_none_is_answered_with_what_is_wrong() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let _server = simulator_with(Options { control: Some(path.clone()), ..Options::default() }).await;
    let (read, mut write) = tokio::net::UnixStream::connect(&path).await.unwrap().into_split();
    let mut lines = BufReader::new(read).lines();
    for bad in ["nonsense", r#"{"cmd":"unheard-of"}"#, r#"{"cmd":"hang","on":1}"#, r#"{"cmd":"hang","on":true,"x":1}"#]
    {
        write.write_all(format!("{bad}\n").as_bytes()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert!(answer["ok"] == false && answer["error"].as_str().unwrap().len() > 10, "{bad}: {answer}");
    }
}

#[tokio::test]
async fn a_server_changes_by_itself_at_the_rate_it_is_given() {
    let server = simulator_with(Options { script_rate: 200.0, ..Options::default() }).await;
    server.control(Request::CreateForeign { meeting: None, terminals: 5, count: Some(3) }).await.unwrap();
    let began = server.stats().events_made;
    until(|| async { server.stats().events_made >= began + 30 }).await;
}

#[tokio::test]
async fn only_loopback_is_listened_on_and_a_state_file_has_one_server() {
    let everywhere = Options { listen: "0.0.0.0:0".parse().unwrap(), ..Options::default() };
    let error = Simulator::spawn(everywhere).await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let state = Some(folder.path().join("state"));
    let server = simulator_with(Options { state: state.clone(), ..Options::default() }).await;
    let error = Simulator::spawn(Options { state: state.clone(), ..Options::default() }).await.unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    server.stop().await.unwrap();
    let error =
        Simulator::spawn(Options { state: state.clone(), server_id: 2, ..Options::default() }).await.unwrap_err();
    assert!(error.to_string().contains("belongs to server 1"), "{error}");
    std::fs::write(state.as_ref().unwrap(), b"not a state").unwrap();
    let error = Simulator::spawn(Options { state, ..Options::default() }).await.unwrap_err();
    assert!(error.to_string().contains("no state of a simulated server"), "{error}");
}
