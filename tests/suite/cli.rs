//! Goal: the program says what is wrong, where and what to do, and its exit codes can be relied on.
//! Method: the program itself, as a child process.

#![allow(clippy::unwrap_used)]

use crate::fake_scheduler::{FakeScheduler, answer, failure, welcome};
use remeet::ops::lock::NodeLock;
use remeet_protocol::{ErrorCode, Message};
use std::path::Path;
use std::process::{Command, Output};

fn remeet(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remeet"));
    command.args(arguments).env_remove("REMEET_CONFIG").env_remove("NOTIFY_SOCKET");
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn check_accepts_the_shipped_example_and_names_what_it_found() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/remeet.toml");
    let output = remeet(&["check", "--config", example]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("is valid") && said(&output).contains("2 servers"), "{}", said(&output));
}

#[test]
fn a_configuration_with_an_unknown_key_ends_check_and_run_with_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let config = crate::daemon_config(directory.path());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[store]", "[store]\nurll = \"x\"")).unwrap();
    for command in ["check", "run", "validate"] {
        let output = remeet(&[command, "--config", shown(&config)]);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("unknown field `urll`") && said(&output).contains(shown(&config)));
    }
}

#[test]
fn wrong_usage_ends_with_code_2_and_help_with_0() {
    for arguments in [&["fly"][..], &[], &["client", "--id", "x", "--name", "n", "list"], &["demo", "--servers", "0"]] {
        assert_eq!(remeet(arguments).status.code(), Some(2), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["client", "--help"]] {
        assert_eq!(remeet(arguments).status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn migrate_makes_an_embedded_database_before_the_first_start_and_a_dry_run_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = crate::daemon_config(directory.path());
    let state = directory.path().join("state");
    let looked = remeet(&["migrate", "--config", shown(&config), "--dry-run"]);
    assert_eq!(looked.status.code(), Some(0), "{}", said(&looked));
    assert!(said(&looked).contains("pending: remeet migrate applies them") && !state.exists(), "{}", said(&looked));
    let made = remeet(&["migrate", "--config", shown(&config)]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    assert!(said(&made).contains("the schema is up to date") && state.join("remeet.db").exists());
    let again = remeet(&["migrate", "--config", shown(&config)]);
    assert!(said(&again).ends_with("the schema is up to date\n") && !said(&again).contains("new"), "{}", said(&again));
}

#[test]
fn a_second_daemon_of_a_node_names_the_process_that_holds_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let config = crate::daemon_config(directory.path());
    let _lock = NodeLock::take(&directory.path().join("state")).unwrap();
    let output = remeet(&["run", "--config", shown(&config)]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&format!("process {}", std::process::id())), "{}", said(&output));
}

#[test]
fn status_without_a_daemon_says_where_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let config = crate::daemon_config(directory.path());
    for arguments in [["status", "--config", shown(&config)], ["recover", "--config", shown(&config)]] {
        let output = remeet(&arguments);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("operator.sock: ") && said(&output).contains("is it running"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn an_operator_is_told_what_a_socket_s_error_means() {
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join("left.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let missing = directory.path().join("missing.sock");
    for (socket, hint) in
        [(&left, "is it running? What is there was left behind"), (&missing, "with --config, or --socket")]
    {
        for command in [&["status"][..], &["recover"], &["troubled"], &["dump-cache"]] {
            let output = remeet(&[command, &["--socket", shown(socket)]].concat());
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains(shown(socket)) && said(&output).contains(hint), "{}", said(&output));
        }
    }
}

#[test]
fn what_is_no_meeting_s_id_is_refused_with_where_to_find_one() {
    let client = ["client", "--id", "1", "--name", "n"];
    for arguments in [
        &["mark", "8001"][..],
        &["lift-quarantine", "8001/0"],
        &[&client[..], &["end", "8001"]].concat(),
        &[&client[..], &["get", "8001"]].concat(),
        &[&client[..], &["adopt", "--server", "1", "--handle", "2", "--leg", "8001"]].concat(),
    ] {
        let output = remeet(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let wanted = ["\"8001\" is not a meeting's id", "remeet client list and remeet troubled show ids"];
        assert!(wanted.iter().all(|text| said(&output).contains(text)), "{}", said(&output));
    }
}

#[test]
fn help_names_the_exit_codes_and_where_the_socket_is_looked_for() {
    assert!(said(&remeet(&["--help"])).contains("Exit codes: 0 done, 1 it failed"));
    let help = said(&remeet(&["status", "--help"])).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("/etc/remeet/remeet.toml, else /run/remeet/operator.sock"), "{help}");
    let help = said(&remeet(&["lift-quarantine", "--help"])).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("Its quarantine is lifted once it adds up"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_command_prints_its_answer_and_ends_with_its_outcome() {
    let fake = FakeScheduler::start(|heard| match &heard.packet.message {
        Message::Hello(hello) if hello.id == 5 => welcome(),
        Message::Hello(_) => failure(ErrorCode::UNKNOWN_IDENTITY),
        Message::ClientCommand(command) if command.op.name() == "create" => answer(command, ErrorCode::OK, 0),
        Message::ClientCommand(command) => answer(command, ErrorCode::UNKNOWN_MEETING, 0),
        _ => Vec::new(),
    })
    .await;
    let address = fake.address.to_string();
    let run = |id: &'static str, action: &'static [&'static str]| {
        let address = address.clone();
        async move {
            let run = move || {
                let mut arguments = vec!["client", "--connect", &address, "--id", id, "--name", "panel", "--json"];
                arguments.extend(action);
                remeet(&arguments)
            };
            tokio::task::spawn_blocking(run).await.unwrap()
        }
    };
    let created = run("5", &["create", "--number", "100", "--title", "Night shift"]).await;
    assert_eq!(created.status.code(), Some(0), "{}", said(&created));
    let object: serde_json::Value = serde_json::from_slice(&created.stdout).unwrap();
    assert_eq!((&object["ok"], &object["name"]), (&true.into(), &"ok".into()));
    let id: uuid::Uuid = object["meeting"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);

    let ended = run("5", &["end", "00000000-0000-0000-0000-000000000001"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    assert!(said(&ended).contains("unknown meeting"), "{}", said(&ended));

    let stranger = run("6", &["list"]).await;
    assert_eq!(stranger.status.code(), Some(1), "{}", said(&stranger));
    assert!(said(&stranger).contains("unknown identity"), "{}", said(&stranger));
}
