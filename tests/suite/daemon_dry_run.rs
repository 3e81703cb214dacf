//! Goal: `remeet recover --dry-run` says what a round would do and does nothing. Method: asked at a standby, beside
//! an active scheduler, with one meeting of each kind; then at the active one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::Rig;
use crate::pair_rig::{Node, on_postgres};
use remeet::simulator::Request;
use std::process::{Command, Output};

fn dry_run(node: &Node, further: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_remeet"))
        .args(["recover", "--dry-run", "--socket"])
        .arg(&node.socket)
        .args(further)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8(output.stderr.clone()).unwrap()
}

fn attaches(rig: &Rig) -> Vec<u64> {
    rig.servers.iter().map(|server| server.stats().attaches).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_what_would_be_done_and_does_nothing() {
    let Some((_database, backing)) = on_postgres() else { return };
    let rig = Rig::new(2, &backing).await;
    // So long that nobody takes over while the test looks.
    let mut first = Node::with_lease(&rig, "first", &backing, 60_000);
    first.commands(&rig).await;
    let client = first.client().await;
    let mut meetings = Vec::new();
    for place in 0..5 {
        meetings.push(rig.meeting(&client, 1 + place % 2, 2).await);
    }
    let second = Node::with_lease(&rig, "second", &backing, 60_000);
    second.stands_by(&rig).await;

    // At the active one everything is in control.
    let text = said(&dry_run(&first, &[]));
    assert!(text.contains("server 1, table revision") && text.contains(": 3 in control"), "{text}");
    assert!(text.contains(": 2 in control") && text.contains("nothing was done"), "{text}");

    // It dies; the standby is asked what it would do.
    first.kill();
    rig.servers[0].control(Request::CreateForeign { meeting: None, terminals: 4, count: None }).await.unwrap();
    rig.servers[0].control(Request::EndLeg { meeting: meetings[0], leg: 0 }).await.unwrap();
    let before = attaches(&rig);
    let output = dry_run(&second, &["--server", "1"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 ended, 1 orphan, 2 take over"), "{text}");
    assert!(text.contains(&format!("ended           {}/0", meetings[0])), "{text}");
    assert!(text.contains("4 terminals") && !text.contains("server 2"), "{text}");
    second.stands_by(&rig).await;
    assert_eq!(attaches(&rig), before, "nothing was done");

    // The first comes back and does it.
    first.start_again(&rig);
    first.commands(&rig).await;
    let json = said(&dry_run(&first, &["--json"]));
    let plans: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(plans.len(), 2, "{json}");
    let legs: Vec<&serde_json::Value> = plans.iter().flat_map(|plan| plan["legs"].as_array().unwrap()).collect();
    assert_eq!(legs.iter().filter(|leg| leg["in_control"] == true).count(), 4, "{json}");
    assert_eq!(legs.iter().filter(|leg| leg["bucket"] == "orphan").count(), 1, "{json}");

    // A server that does not answer has no plan, and that is said.
    rig.servers[1].control(Request::CutLink { on: true }).await.unwrap();
    let cut = |status: &remeet::ops::status::Status| status.servers[1].link == remeet::ops::status::LinkState::Down;
    first.until(&rig, "cut", cut).await;
    let output = dry_run(&first, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("server 2: no plan: ") && text.contains("no plan for server 2"), "{text}");
    let unknown = said(&dry_run(&first, &["--server", "9"]));
    assert!(unknown.contains('9') && unknown.contains("server"), "{unknown}");
}
