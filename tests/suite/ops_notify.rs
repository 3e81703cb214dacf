//! Goal: the service manager is told what it needs, and cannot harm the daemon. Method: a datagram socket
//! in its place.

#![allow(clippy::unwrap_used)]

use remeet::ops::systemd::feed_watchdog;
use remeet::ops::{Heartbeat, ServiceManager};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

fn manager(directory: &Path) -> (UnixDatagram, ServiceManager) {
    let path = directory.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    (socket, ServiceManager::at(path).unwrap())
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let length = loop {
        match socket.recv(&mut buffer) {
            // A child of another test ended: with a read deadline, the signal is told.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.expect("a notification within the deadline"),
        }
    };
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[test]
fn ready_status_and_stopping_arrive_each_in_a_message_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, service) = manager(directory.path());
    service.status("recovering 1 of 2 meetings");
    service.ready();
    service.stopping();
    assert_eq!(receive(&socket), "STATUS=recovering 1 of 2 meetings\n");
    assert_eq!(receive(&socket), "READY=1\n");
    assert_eq!(receive(&socket), "STOPPING=1\n");
}

#[test]
fn a_status_that_did_not_change_is_not_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, service) = manager(directory.path());
    service.status("steady");
    service.status("steady");
    service.clone().status("steady");
    service.status("recovering\nREADY=1");
    assert_eq!(receive(&socket), "STATUS=steady\n");
    assert_eq!(receive(&socket), "STATUS=recovering READY=1\n", "and a line break begins no other assignment");
}

#[test]
fn without_a_manager_nothing_happens() {
    let service = ServiceManager::default();
    assert!(!service.listens());
    service.ready();
    service.status("steady");
    service.stopping();
}

#[test]
fn a_manager_that_does_not_read_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let (_socket, service) = manager(directory.path());
    let began = tokio::time::Instant::now();
    for round in 0..10_000 {
        service.status(&format!("round {round}"));
    }
    assert!(began.elapsed() < DEADLINE, "took {:?}", began.elapsed());
}

#[tokio::test]
async fn the_watchdog_is_fed_only_while_the_heartbeat_advances() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, service) = manager(directory.path());
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UnixDatagram::from_std(socket).unwrap();
    let (heartbeat, stop) = (Heartbeat::default(), CancellationToken::new());
    let interval = Duration::from_millis(300);
    let feeding = tokio::spawn(feed_watchdog(service, interval, heartbeat.clone(), stop.clone()));

    let mut buffer = [0; 64];
    for _ in 0..3 {
        heartbeat.beat();
        let length = tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("fed").unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
    }
    // It stands still: at most what was on its way already arrives, then nothing for longer than the manager waits.
    let mut late = 0;
    while tokio::time::timeout(interval * 2, socket.recv(&mut buffer)).await.is_ok() {
        late += 1;
        assert!(late <= 1, "fed although the heartbeat stood still");
    }
    heartbeat.beat();
    tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("fed again").unwrap();
    // A stopping process is not killed by the watchdog: its end has a deadline of its own.
    stop.cancel();
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("fed while stopping").unwrap();
    }
    feeding.abort();
}

#[test]
fn the_daemon_tells_its_manager_that_it_starts() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, _) = manager(directory.path());
    let config = crate::daemon_config(directory.path());
    let mut child = Command::new(env!("CARGO_BIN_EXE_remeet"))
        .args(["run", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", directory.path().join("notify"))
        .spawn()
        .unwrap();
    let first = receive(&socket);
    let _ = child.kill();
    child.wait().unwrap();
    assert_eq!(first, "STATUS=starting\n");
}
