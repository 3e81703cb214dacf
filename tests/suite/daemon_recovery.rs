//! Goal: the daemon itself takes meetings back, keeps its promises to clients over a restart, and tells
//! the service manager. Method: `remeet run` as a process, killed and started again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, OPERATOR, PATIENCE, Rig, VIEW, add_terminal, create, ok, over_both, said};
use crate::servers::{PrivatePostgres, PrivateRedis, fresh_database, redis_url};
use futures_util::{SinkExt, StreamExt};
use remeet::ops::status::{LinkState, Phase, Trigger};
use remeet::simulator::{Request, Script};
use remeet_protocol::message::{
    ClientAnswer, ClientCommand, ClientOp, EndCause, Hello, LegState, MeetingState, Message, Role,
};
use remeet_protocol::packet::{Header, VERSION};
use remeet_protocol::wire::Text;
use remeet_protocol::{Address, DomainId, ErrorCode, Holder, LegId, MeetingId, Packet, PacketCodec};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::codec::Framed;

fn changes(seed: u64, meetings: &[MeetingId]) -> Request {
    Request::Change(Script { seed, fraction: 0.0, meetings: Some(meetings.to_vec()), kinds: Vec::new() })
}

async fn comes_back(backing: &Backing) {
    let mut rig = Rig::new(2, backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(OPERATOR).await;
    let mut meetings = Vec::new();
    for place in 0..12 {
        meetings.push(rig.meeting(&client, 1 + place % 2, 3).await);
    }
    rig.kill();
    rig.servers[0].control(changes(1, &meetings[..4])).await.unwrap();
    rig.servers[0].control(Request::EndLeg { meeting: meetings[4], leg: 0 }).await.unwrap();
    rig.servers[1].control(Request::CreateForeign { meeting: None, terminals: 2, count: None }).await.unwrap();
    rig.start();
    let status = rig.whole().await;
    let round =
        status.rounds.iter().find(|round| round.trigger == Trigger::Restart).expect("a round after the restart");
    assert_eq!((round.meetings_live, round.recovered, round.orphans), (12, 11, 1), "{round:?}");
    // Rule 10: after a restart no key comes from the cache.
    assert_eq!((round.keys_from_database, round.keys_from_cache), (11, 0));
    assert_eq!(round.meetings_live, round.recovered + round.orphans + round.pending + round.ended, "rule 6");
    for (place, meeting) in meetings.iter().enumerate() {
        if place == 4 {
            let ended = client.get(*meeting).await.unwrap().view.info;
            assert_eq!((ended.state, ended.cause), (MeetingState::Ended, EndCause::ByServer));
        } else {
            rig.same_as_server(&client, *meeting).await;
        }
    }
    // It commands again.
    ok(client.command(meetings[0], add_terminal("699")).await.unwrap());
    ok(client.command(meetings[1], ClientOp::End).await.unwrap());
    assert_eq!(client.list().await.unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_takes_every_live_meeting_back_embedded() {
    comes_back(&Backing::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_takes_every_live_meeting_back_on_postgres_and_redis() {
    let (Some(database), Some(cache)) = (fresh_database(), redis_url()) else { return };
    comes_back(&Backing { store: database.url.clone(), cache }).await;
}

async fn killed_in_the_middle_of_recovery_again_and_again_the_end_is_the_same(backing: &Backing) {
    let mut rig = Rig::new(1, backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let mut meetings = Vec::new();
    for _ in 0..10 {
        meetings.push(rig.meeting(&client, 1, 3).await);
    }
    rig.servers[0].control(Request::SetLatency { ms: 15 }).await.unwrap();
    for cycle in 0..6u64 {
        rig.kill();
        rig.servers[0].control(changes(cycle, &meetings)).await.unwrap();
        rig.start();
        // A little further into the recovery each time: it takes some dozen round trips of 15 ms.
        tokio::time::sleep(Duration::from_millis(40 * (cycle + 1))).await;
    }
    rig.servers[0].control(Request::SetLatency { ms: 0 }).await.unwrap();
    let status = rig.whole().await;
    assert_eq!(status.totals.in_meeting, 10, "{status:#?}");
    for meeting in &meetings {
        rig.same_as_server(&client, *meeting).await;
    }
    assert_eq!(rig.servers[0].stats().stale_executed, 0);
}

async fn a_client_that_asks_during_recovery_gets_the_stored_state_at_once_and_then_the_update(backing: &Backing) {
    let mut rig = Rig::new(1, backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(VIEW).await;
    let maker = rig.client(CONTROL).await;
    let meeting = rig.meeting(&maker, 1, 2).await;
    rig.kill();
    rig.servers[0].control(changes(3, &[meeting])).await.unwrap();
    rig.servers[0].control(Request::Hang { on: true }).await.unwrap();
    rig.start();
    rig.until("in a term", |status| status.term.is_some()).await;
    let got = tokio::time::timeout(Duration::from_secs(5), client.get(meeting)).await.expect("at once").unwrap();
    assert!(got.view.info.recovering, "{:?}", got.view.info);
    assert_eq!(got.view.info.title.as_str(), "a meeting under test");
    assert!(!got.view.records.is_empty(), "the stored configuration comes with it");
    // Somebody else at the same client asks, too: the promise is each request's own (SPEC K-7).
    let too = tokio::time::timeout(Duration::from_secs(5), client.get(meeting)).await.expect("at once").unwrap();
    rig.servers[0].control(Request::Hang { on: false }).await.unwrap();
    let second = too.update.expect("an update is promised").wait(PATIENCE).await.unwrap();
    assert!(!second.info.recovering);
    let update = got.update.expect("an update is promised").wait(PATIENCE).await.unwrap();
    assert!(!update.info.recovering);
    assert_eq!(update.info.state, MeetingState::InMeeting);
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_about_a_start_that_a_crash_cut_off_gets_the_update_when_it_has_started() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    rig.start();
    rig.whole().await;
    let (maker, asker) = (rig.client(CONTROL).await, rig.client(VIEW).await);
    let meeting = MeetingId(uuid::Uuid::now_v7());
    ok(maker.command(meeting, create(meeting, 1)).await.unwrap());
    rig.servers[0].control(Request::Hang { on: true }).await.unwrap();
    let start = tokio::spawn(async move { maker.command(meeting, ClientOp::Start).await });
    // An ordinary start is no recovery: the state says all, and nothing more is promised.
    let starting = async {
        loop {
            let got = asker.get(meeting).await.unwrap();
            if got.view.info.state == MeetingState::Starting {
                return got;
            }
        }
    };
    let got = tokio::time::timeout(PATIENCE, starting).await.unwrap();
    assert!(!got.view.info.recovering && got.update.is_none(), "{:?}", got.view.info);
    // It is told as starting while that is on its way to the store; the crash is to come after.
    rig.until("the start is stored", |status| status.counters["persists_open"] == 0).await;
    rig.kill();
    rig.start();
    rig.until("in a term", |status| status.term.is_some()).await;
    let got = asker.get(meeting).await.unwrap();
    assert!(got.view.info.recovering, "{:?}", got.view.info);
    rig.servers[0].control(Request::Hang { on: false }).await.unwrap();
    let update = got.update.expect("an update is promised").wait(PATIENCE).await.unwrap();
    assert!(!update.info.recovering, "{:?}", update.info);
    assert_eq!(update.info.state, MeetingState::InMeeting);
    ok(start.await.unwrap().unwrap());
    rig.same_as_server(&asker, meeting).await;
}

/// A command on a connection of its own, with just this id.
async fn raw_command(rig: &Rig, command: ClientCommand) -> Option<ClientAnswer> {
    let stream = TcpStream::connect(rig.clients_at).await.ok()?;
    let mut framed = Framed::new(stream, PacketCodec::stream());
    let hello = Hello {
        role: Role::Client,
        id: CONTROL,
        name: Text::cut(&format!("client {CONTROL}")),
        instance: Holder::default(),
        version_min: VERSION,
        version_max: VERSION,
    };
    for (request, message) in [(1, Message::from(hello)), (2, Message::from(command))] {
        let packet = Packet {
            destination: Address::scheduler(DomainId(1)),
            source: Address::client(CONTROL),
            header: Header { request, ..Header::default() },
            message,
        };
        framed.send(packet).await.ok()?;
    }
    loop {
        let packet = framed.next().await?.ok()?.ok()?;
        if let Message::ClientAnswer(answer) = packet.message {
            return Some(answer);
        }
    }
}

async fn rule_11_a_client_command_repeated_over_a_restart_has_one_effect_and_one_answer(backing: &Backing) {
    let mut rig = Rig::new(1, backing).await;
    rig.start();
    rig.whole().await;
    let maker = rig.client(CONTROL).await;
    let meeting = rig.meeting(&maker, 1, 1).await;
    let command = |number, op| ClientCommand { instance: 77, number, meeting, op };
    let executed = rig.servers[0].stats().commands_executed;
    // Answered before the restart.
    let first = raw_command(&rig, command(1, add_terminal("611"))).await.unwrap();
    ok(first.clone());
    // Under way at the kill: the server holds its answer back.
    rig.servers[0].control(Request::SetLatency { ms: 400 }).await.unwrap();
    let unanswered =
        tokio::time::timeout(Duration::from_millis(150), raw_command(&rig, command(2, add_terminal("612")))).await;
    assert!(unanswered.is_err(), "its answer is still on the way");
    rig.kill();
    rig.servers[0].control(Request::SetLatency { ms: 0 }).await.unwrap();
    rig.start();
    rig.whole().await;
    for _ in 0..2 {
        assert_eq!(raw_command(&rig, command(1, add_terminal("611"))).await.unwrap(), first);
        ok(raw_command(&rig, command(2, add_terminal("612"))).await.unwrap());
    }
    assert_eq!(rig.servers[0].stats().commands_executed, executed + 2, "each command ran once");
    rig.same_as_server(&maker, meeting).await;
}

async fn a_start_and_an_end_that_were_under_way_at_the_kill_are_finished(backing: &Backing) {
    let mut rig = Rig::new(1, backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let ending = rig.meeting(&client, 1, 1).await;
    let starting = MeetingId(uuid::Uuid::now_v7());
    ok(client.command(starting, create(starting, 1)).await.unwrap());
    rig.servers[0].control(Request::Hang { on: true }).await.unwrap();
    let both = async {
        let start = client.command(starting, ClientOp::Start);
        let end = client.command(ending, ClientOp::End);
        tokio::join!(start, end)
    };
    let watcher = rig.client(VIEW).await;
    let under_way = async {
        loop {
            let one = watcher.get(starting).await.unwrap().view.info.state;
            let two = watcher.get(ending).await.unwrap().view.info.state;
            if (one, two) == (MeetingState::Starting, MeetingState::Ending) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::pin!(both);
    tokio::select! {
        answers = &mut both => panic!("answered although the server hangs: {answers:?}"),
        () = under_way => {}
    }
    rig.kill();
    rig.servers[0].control(Request::Hang { on: false }).await.unwrap();
    rig.start();
    // The client library repeats both with their first ids.
    let (start, end) = both.await;
    ok(start.unwrap());
    ok(end.unwrap());
    rig.whole().await;
    rig.same_as_server(&client, starting).await;
    assert_eq!(client.get(ending).await.unwrap().view.info.state, MeetingState::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_restored_link_takes_its_keys_from_the_cache_and_missing_ones_from_the_database() {
    let (Some(database), Some(redis)) = (fresh_database(), PrivateRedis::start()) else { return };
    let backing = Backing { store: database.url.clone(), cache: redis.url() };
    let mut rig = Rig::new(2, &backing).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let mut meetings = Vec::new();
    for _ in 0..10 {
        meetings.push(rig.meeting(&client, 1, 2).await);
    }
    rig.steady().await;
    let restored = |epoch_of: usize| {
        move |status: &remeet::ops::status::Status| {
            status.rounds.iter().any(|round| {
                round.trigger == Trigger::LinkRestored
                    && round.keys_from_cache + round.keys_from_database >= epoch_of as u64
            })
        }
    };
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[0].link != LinkState::Attached).await;
    rig.servers[0].control(changes(5, &meetings)).await.unwrap();
    rig.servers[0].control(Request::CutLink { on: false }).await.unwrap();
    let status = rig.until("restored", restored(10)).await;
    let round = status.rounds.iter().find(|round| round.trigger == Trigger::LinkRestored).unwrap();
    assert_eq!((round.keys_from_cache, round.keys_from_database), (10, 0));
    rig.whole().await;
    // The cache is wiped during the next cut: every key comes from the database, and the cache is filled again.
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[0].link != LinkState::Attached).await;
    redis.ask("FLUSHALL");
    rig.servers[0].control(Request::CutLink { on: false }).await.unwrap();
    let status = rig
        .until("restored without cache", |status| {
            status.rounds.iter().any(|round| round.trigger == Trigger::LinkRestored && round.keys_from_database == 10)
        })
        .await;
    let round = status.rounds.iter().find(|round| round.trigger == Trigger::LinkRestored).unwrap();
    assert_eq!((round.keys_from_cache, round.keys_from_database), (0, 10));
    assert!(rig.log().contains("keys_from_database=10 keys_from_cache=0"), "{}", rig.log());
    rig.whole().await;
    for meeting in &meetings {
        rig.same_as_server(&client, *meeting).await;
    }
    let keys = redis.ask("DBSIZE");
    assert!(keys.trim_start_matches(':').parse::<u32>().unwrap() >= 20, "keys and status are cached again: {keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_at_start_is_waited_for() {
    let (Some(mut postgres), Some(cache)) = (PrivatePostgres::start(), redis_url()) else { return };
    let mut rig = Rig::new(1, &Backing { store: postgres.url(), cache }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 2).await;
    rig.kill();
    postgres.kill();
    rig.start();
    let status = rig.until("waiting", |status| status.phase == Phase::WaitingForDatabase).await;
    assert!(status.store.last_error.is_some() && !status.store.healthy);
    assert!(status.counters["store_failures"] > 0 && rig.log().contains("no term yet"), "counted and logged");
    assert_eq!(status.totals.in_meeting, 0, "no takeover from the cache");
    let meeting_id = meeting.to_string();
    for asked in [&["recover"][..], &["recover", "--server", "1"], &["lift-quarantine", &meeting_id]] {
        let output = rig.remeet(asked);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("the scheduler has no term yet: it waits for the database"),
            "{}",
            said(&output)
        );
    }
    let answer = client.command_within(meeting, add_terminal("612"), Duration::from_secs(1)).await;
    assert!(answer.is_err() || !answer.unwrap().code.is_ok(), "it says that it cannot");
    postgres.start_again();
    rig.whole().await;
    rig.same_as_server(&client, meeting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_down_costs_nothing_and_is_filled_when_it_returns() {
    let (Some(database), Some(mut redis)) = (fresh_database(), PrivateRedis::start()) else { return };
    let mut rig = Rig::new(1, &Backing { store: database.url.clone(), cache: redis.url() }).await;
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 2).await;
    rig.kill();
    redis.kill();
    rig.start();
    rig.until("in control", |status| status.totals.in_meeting == 1).await;
    ok(client.command(meeting, add_terminal("650")).await.unwrap());
    rig.same_as_server(&client, meeting).await;
    let status = rig.until("its failure is shown", |status| !status.cache.healthy).await;
    assert!(status.counters["cache_failures"] > 0 && status.cache.last_error.is_some(), "{:?}", status.cache);
    assert!(rig.log().contains("the cache is brought up to date when it answers"), "{}", rig.log());
    redis.start_again();
    // It is looked for, found, and everything cached is compared.
    let filled = async {
        while redis.ask("DBSIZE").trim_start_matches(':').parse::<u32>().unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, filled).await.expect("key and status are cached again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_ready_progress_and_stopping_and_sigterm_ends_it_cleanly() {
    let mut rig = Rig::new(1, &Backing::embedded()).await;
    let path = rig.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    rig.notify(path);
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let meeting = rig.meeting(&client, 1, 1).await;
    assert!(rig.terminate().success(), "{}", rig.log());
    let leg = rig.servers[0].dump().legs.into_iter().find(|leg| leg.leg == LegId { meeting, leg: 0 }).unwrap();
    assert_eq!(leg.state, LegState::Live, "a clean end ends no meeting");
    let mut heard = Vec::new();
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        heard.push(String::from_utf8(buffer[..length].to_vec()).unwrap().trim().to_owned());
    }
    let place = |wanted: &str| heard.iter().position(|text| text.starts_with(wanted));
    let ready = place("READY=1").unwrap_or_else(|| panic!("{heard:?}"));
    assert!(place("STATUS=steady").is_some_and(|at| at > ready), "{heard:?}");
    assert!(place("STOPPING=1").is_some_and(|at| at > ready), "{heard:?}");
    rig.start();
    rig.whole().await;
    rig.same_as_server(&client, meeting).await;
}

/// A refusal by the code that the client sees.
pub(crate) fn refused(answer: &ClientAnswer, code: ErrorCode) {
    assert_eq!(answer.code, code, "{answer:?}");
}

over_both! {
    killed_in_the_middle_of_recovery_again_and_again_the_end_is_the_same
    a_client_that_asks_during_recovery_gets_the_stored_state_at_once_and_then_the_update
    rule_11_a_client_command_repeated_over_a_restart_has_one_effect_and_one_answer
    a_start_and_an_end_that_were_under_way_at_the_kill_are_finished
}
