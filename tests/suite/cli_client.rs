//! Goal: a meeting client's command happens once, whatever becomes of connections, answers and the client
//! itself (rule 11). Method: the client library against a scheduler that loses what it is told to lose.

#![allow(clippy::unwrap_used)]

use crate::fake_scheduler::{Back, DEADLINE, FakeScheduler, answer, failure, goodbye, meeting, welcome};
use futures_util::future::join_all;
use remeet::cms::client::{COMMANDS_IN_FLIGHT, Client, ClientError, ClientSettings, NUMBERS_AHEAD};
use remeet_protocol::message::ClientOp;
use remeet_protocol::wire::Text;
use remeet_protocol::{ErrorCode, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

pub(crate) fn settings(address: SocketAddr) -> ClientSettings {
    ClientSettings { deadline: DEADLINE, ..ClientSettings::new(address, 5, Text::cut("panel")) }
}

#[tokio::test]
async fn rule_11_lost_answers_are_asked_for_again_under_the_same_id() {
    // The first connection hears 50 commands, answers none and breaks; so does the second, after 20.
    let fake = FakeScheduler::start(|heard| {
        let of_connection = |limit: u64| {
            let command = heard.command().unwrap();
            if command.number >= limit { vec![Back::Close] } else { Vec::new() }
        };
        match (&heard.packet.message, heard.connection) {
            (Message::Hello(_), _) => welcome(),
            (Message::ClientCommand(_), 1) => of_connection(50),
            (Message::ClientCommand(_), 2) => of_connection(20),
            (Message::ClientCommand(command), _) => answer(command, ErrorCode::OK, 0),
            _ => Vec::new(),
        }
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    let answers = join_all((0..50).map(|number| client.command(meeting(number), ClientOp::Start))).await;
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().meeting, meeting(u16::try_from(number).unwrap()));
    }
    let mut first: BTreeMap<u64, _> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (connection, command) in fake.commands() {
        ids.insert((command.instance, command.number));
        let before = first.entry(command.number).or_insert_with(|| command.clone());
        assert_eq!(*before, command, "connection {connection}");
    }
    assert_eq!(ids.len(), 50, "no command got a second id");
    let third: Vec<u64> = fake.commands().iter().filter(|(it, _)| *it == 3).map(|(_, it)| it.number).collect();
    assert_eq!(third, (1..=50).collect::<Vec<_>>(), "sent again in order");
    assert_eq!(client.link().borrow().connects, 3);
}

#[tokio::test]
async fn retry_and_unknown_outcome_are_repeated_with_the_same_id_after_the_time_asked_for() {
    let mut codes = vec![ErrorCode::RETRY, ErrorCode::UNAVAILABLE, ErrorCode::BUSY, ErrorCode::NOT_DURABLE].into_iter();
    let fake = FakeScheduler::start(move |heard| match &heard.packet.message {
        Message::Hello(_) => welcome(),
        Message::ClientCommand(command) => answer(command, codes.next().unwrap_or(ErrorCode::OK), 50),
        _ => Vec::new(),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    assert!(client.command(meeting(1), ClientOp::Start).await.unwrap().code.is_ok());
    let heard = fake.heard();
    let sent: Vec<_> = heard.iter().filter(|heard| heard.command().is_some()).collect();
    assert_eq!(sent.len(), 5);
    for pair in sent.windows(2) {
        assert_eq!(pair[0].command(), pair[1].command());
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(50), "{:?}", pair[1].at - pair[0].at);
    }
}

#[tokio::test]
async fn a_final_refusal_is_an_answer_and_is_not_repeated() {
    let fake = FakeScheduler::start(|heard| match &heard.packet.message {
        Message::Hello(_) => welcome(),
        Message::ClientCommand(command) if command.op == ClientOp::End => failure(ErrorCode::NOT_ALLOWED),
        Message::ClientCommand(command) => answer(command, ErrorCode::WRONG_STATE, 0),
        _ => Vec::new(),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    assert_eq!(client.command(meeting(1), ClientOp::Start).await.unwrap().code, ErrorCode::WRONG_STATE);
    let error = client.command(meeting(1), ClientOp::End).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(failure) if failure.code == ErrorCode::NOT_ALLOWED), "{error}");
    assert_eq!(fake.commands().len(), 2);
}

#[tokio::test]
async fn rule_17_the_window_bounds_commands_in_flight_and_their_numbers() {
    // The lowest number is told to retry until everything else that may go has gone.
    let mut repeats = 0;
    let fake = FakeScheduler::start(move |heard| match &heard.packet.message {
        Message::Hello(_) => welcome(),
        Message::ClientCommand(command) if command.number == 1 && repeats < 10 => {
            repeats += 1;
            answer(command, ErrorCode::RETRY, 50)
        }
        Message::ClientCommand(command) => answer(command, ErrorCode::OK, 0),
        _ => Vec::new(),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    let answers = join_all((0..1_000).map(|number| client.command(meeting(number), ClientOp::Start))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().code.is_ok()));
    let commands = fake.commands();
    let last_of_first = commands.iter().rposition(|(_, command)| command.number == 1).unwrap();
    let highest_before = commands[..last_of_first].iter().map(|(_, command)| command.number).max().unwrap();
    assert!(highest_before <= 1 + NUMBERS_AHEAD, "{highest_before} ran ahead of an open 1");
    assert!(highest_before > COMMANDS_IN_FLIGHT as u64, "answered ones made room: {highest_before}");
}

#[tokio::test]
async fn rule_17_no_more_than_a_window_is_sent_to_a_scheduler_that_does_not_answer() {
    let fake = FakeScheduler::start(|heard| match &heard.packet.message {
        Message::Hello(_) => welcome(),
        // Alive, so that the link stays.
        Message::KeepAlive(_) => vec![Back::answer(remeet_protocol::message::KeepAliveAnswer { table_revision: 1 })],
        _ => Vec::new(),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    let commands: Vec<_> = (0..500)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                client.command_within(meeting(number), ClientOp::Start, Duration::from_secs(4)).await
            })
        })
        .collect();
    fake.until("a window", |heard| heard.iter().filter(|it| it.command().is_some()).count() == COMMANDS_IN_FLIGHT)
        .await;
    // A keep-alive later the window has had its time to be overrun.
    fake.until("a keep-alive", |heard| heard.iter().any(|it| matches!(it.packet.message, Message::KeepAlive(_)))).await;
    assert_eq!(fake.commands().len(), COMMANDS_IN_FLIGHT);
    for command in commands {
        let error = timeout(DEADLINE, command).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, ClientError::Deadline { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_goodbye_is_honoured_before_dialling_again() {
    let fake = FakeScheduler::start(|heard| match (&heard.packet.message, heard.connection) {
        (Message::Hello(_), _) => welcome(),
        (Message::ClientCommand(_), 1) => goodbye(400),
        (Message::ClientCommand(command), _) => answer(command, ErrorCode::OK, 0),
        _ => Vec::new(),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    assert!(client.command(meeting(1), ClientOp::Start).await.unwrap().code.is_ok());
    let heard = fake.heard();
    let said = heard.iter().find(|it| it.command().is_some()).unwrap().at;
    let dialled = heard.iter().find(|it| it.connection == 2).unwrap().at;
    assert!(dialled - said >= Duration::from_millis(400), "{:?}", dialled - said);
}

#[tokio::test]
async fn a_silent_scheduler_is_left_and_dialled_again() {
    let fake = FakeScheduler::start(|heard| match (&heard.packet.message, heard.connection) {
        (Message::Hello(_), _) => welcome(),
        (Message::ClientCommand(command), 2) => answer(command, ErrorCode::OK, 0),
        _ => Vec::new(),
    })
    .await;
    let client = Client::connect(settings(fake.address)).await.unwrap();
    assert!(client.command(meeting(1), ClientOp::Start).await.unwrap().code.is_ok());
    assert!(fake.heard().iter().any(|it| it.connection == 1 && matches!(it.packet.message, Message::KeepAlive(_))));
}

#[tokio::test]
async fn a_client_that_is_not_known_is_told_at_once() {
    let fake = FakeScheduler::start(|_| failure(ErrorCode::UNKNOWN_IDENTITY)).await;
    let error = timeout(DEADLINE / 2, Client::connect(settings(fake.address))).await.unwrap().unwrap_err();
    assert!(matches!(&error, ClientError::Refused(it) if it.code == ErrorCode::UNKNOWN_IDENTITY), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_deadline_that_names_the_reason() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = ClientSettings { deadline: Duration::from_millis(300), ..settings(free) };
    let error = Client::connect(settings).await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn rule_11_a_repeat_after_the_clients_crash_has_the_same_id() {
    let fake = FakeScheduler::start(|heard| match (&heard.packet.message, heard.connection) {
        (Message::Hello(_), _) => welcome(),
        // The client of connection 1 crashes before it is answered.
        (Message::ClientCommand(_), 1) => Vec::new(),
        (Message::ClientCommand(command), _) => answer(command, ErrorCode::OK, 0),
        _ => Vec::new(),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let memory = Some(directory.path().join("client.json"));
    let settings = ClientSettings { memory: memory.clone(), ..settings(fake.address) };

    let client = Client::connect(settings.clone()).await.unwrap();
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.command(meeting(1), ClientOp::Start).await }
    });
    fake.until("the command", |heard| heard.iter().any(|it| it.command().is_some())).await;
    // A crash leaves the file as it was when the command left.
    let left = std::fs::read(memory.as_ref().unwrap()).unwrap();
    asking.abort();
    client.close().await;
    drop(client);
    std::fs::write(memory.as_ref().unwrap(), left).unwrap();

    let client = Client::connect(settings.clone()).await.unwrap();
    assert_eq!(client.left_open().len(), 1);
    assert!(client.command(meeting(1), ClientOp::Start).await.unwrap().code.is_ok());
    assert!(client.command(meeting(1), ClientOp::Start).await.unwrap().code.is_ok());
    client.close().await;
    drop(client);

    let client = Client::connect(settings).await.unwrap();
    assert!(client.left_open().is_empty(), "answered commands are not left open");
    assert!(client.command(meeting(1), ClientOp::Start).await.unwrap().code.is_ok());
    let ids: Vec<_> = fake.commands().into_iter().map(|(_, command)| (command.instance, command.number)).collect();
    let instance = ids[0].0;
    assert_eq!(ids, [(instance, 1), (instance, 1), (instance, 2), (instance, 3)]);
}

#[tokio::test]
async fn another_command_closes_the_book_of_what_was_left_open() {
    let fake = FakeScheduler::start(|heard| match &heard.packet.message {
        Message::Hello(_) => welcome(),
        Message::ClientCommand(command) => answer(command, ErrorCode::OK, 0),
        _ => Vec::new(),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let memory = directory.path().join("client.json");
    let left = format!(r#"{{"instance":77,"last":9,"open":[{{"number":8,"meeting":"{}","op":"start"}}]}}"#, meeting(1));
    std::fs::write(&memory, left).unwrap();
    let settings = ClientSettings { memory: Some(memory), ..settings(fake.address) };
    let client = Client::connect(settings).await.unwrap();
    client.command(meeting(2), ClientOp::Start).await.unwrap();
    client.command(meeting(1), ClientOp::Start).await.unwrap();
    let ids: Vec<_> = fake.commands().into_iter().map(|(_, command)| (command.instance, command.number)).collect();
    assert_eq!(ids, [(77, 10), (77, 11)]);
}

#[tokio::test]
async fn a_state_file_is_one_clients_alone_and_a_broken_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let memory = directory.path().join("client.json");
    let settings = ClientSettings { memory: Some(memory.clone()), ..settings("127.0.0.1:9".parse().unwrap()) };
    let client = Client::start(settings.clone()).unwrap();
    let error = Client::start(settings.clone()).unwrap_err();
    assert!(error.to_string().contains("used by another client"), "{error}");
    client.close().await;
    drop(client);
    std::fs::write(&memory, "{").unwrap();
    let error = Client::start(settings).unwrap_err();
    assert!(error.to_string().contains("client.json") && error.to_string().contains("move it away"), "{error}");
}
