//! Goal: `systemctl status remeet` shows how a recovery goes. Method: a real datagram socket in the service
//! manager's place, and a recovery that is slow enough to be watched.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, PATIENCE, Rig, add_terminal, create, ok};
use futures_util::future::try_join_all;
use remeet::simulator::Request;
use remeet_protocol::MeetingId;
use remeet_protocol::message::ClientOp;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

const MEETINGS: u64 = 140;

/// Every `STATUS=` up to the first one that begins with `last`.
fn statuses(rig: &Rig, socket: &UnixDatagram, last: &str) -> Vec<String> {
    let begun = Instant::now();
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    while begun.elapsed() < PATIENCE {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            // A child of another test ended: with a read deadline, the signal is told.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
        if let Some(status) = text.trim_end().strip_prefix("STATUS=") {
            heard.push(status.to_owned());
            if status.starts_with(last) {
                return heard;
            }
        }
    }
    panic!("no {last:?} in {heard:?}\n{}", rig.log());
}

/// `recovering: N of M meetings in control…`: N and M.
fn progress(status: &str) -> Option<(u64, u64)> {
    let (count, rest) = status.strip_prefix("recovering: ")?.split_once(" of ")?;
    Some((count.parse().ok()?, rest.split_once(' ')?.0.parse().ok()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn status_notifications_show_the_recovery_s_progress_and_its_end() {
    let mut rig = Rig::new(2, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meetings: Vec<MeetingId> = (0..MEETINGS).map(|_| MeetingId(uuid::Uuid::now_v7())).collect();
    let begin = |meeting: MeetingId| {
        let client = &client;
        async move {
            for op in [create(meeting, 1), ClientOp::Start, add_terminal("601")] {
                ok(client.command(meeting, op).await?);
            }
            Ok::<_, remeet::cms::client::ClientError>(())
        }
    };
    try_join_all(meetings.iter().map(|meeting| begin(*meeting))).await.unwrap();
    rig.steady().await;
    rig.kill();
    // Two requests in flight, each answered late: 14 claims a packet, so it takes five steps and more.
    rig.environment("REMEET_RECOVERY__REQUESTS_IN_FLIGHT", "2");
    rig.servers[0].control(Request::SetLatency { ms: 300 }).await.unwrap();
    let path = rig.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    rig.notify(path);
    rig.start();
    let heard = statuses(&rig, &socket, "steady");
    let counts: Vec<(u64, u64)> = heard.iter().filter_map(|status| progress(status)).collect();
    let between = counts.iter().filter(|(ours, of)| (1..MEETINGS).contains(ours) && *of == MEETINGS).count();
    assert!(between >= 3, "several counts on the way: {heard:?}");
    assert!(counts.windows(2).all(|pair| pair[0].0 <= pair[1].0), "they only rise: {heard:?}");
    assert!(heard.iter().any(|status| status.contains("being back-filled")), "{heard:?}");
    assert_eq!(heard.last().unwrap(), &format!("steady: {MEETINGS} of {MEETINGS} meetings in control"), "{heard:?}");
    for text in heard.iter().filter(|text| text.starts_with("recovering")) {
        assert!(rig.log().contains(text.as_str()), "{text} is in the log, too");
    }
    // What changes later is told, too: the text is never an old one.
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    let lost =
        statuses(&rig, &socket, &format!("steady: 0 of {MEETINGS} meetings in control, 1 of 2 servers unreachable"));
    rig.servers[0].control(Request::SetLatency { ms: 0 }).await.unwrap();
    rig.servers[0].control(Request::CutLink { on: false }).await.unwrap();
    statuses(&rig, &socket, &format!("steady: {MEETINGS} of {MEETINGS} meetings in control"));
    assert!(!lost.is_empty());
}
