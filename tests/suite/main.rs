//! Every test that needs more than one module. One binary, so that it links once.

#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the tests of drivers read clocks and wait for conditions")]

mod bench;
mod cache_contract;
mod cache_proxy;
mod cache_records;
mod cache_speed;
mod cache_traps;
mod cli;
mod cli_client;
mod cli_client_reads;
mod config;
mod core_answers;
mod core_bounds;
mod core_claims;
mod core_content;
mod core_rig;
mod daemon_bad_client;
mod daemon_bad_input;
mod daemon_dry_run;
mod daemon_events;
mod daemon_faults;
mod daemon_legs;
mod daemon_notify;
mod daemon_operator;
mod daemon_outage;
mod daemon_pair;
mod daemon_recovery;
mod daemon_relay;
mod daemon_rig;
mod daemon_secrets;
mod daemon_silence;
mod demo;
mod drill;
mod fake_scheduler;
mod fault_proxy;
mod lease;
mod link;
mod link_clients;
mod link_packets;
mod measure;
mod ops_lock;
mod ops_notify;
mod ops_operator;
mod ops_status;
mod packaging;
mod pair_rig;
mod plan;
mod plan_round;
mod playing;
mod servers;
mod session;
mod session_answers;
mod session_any;
mod session_network;
mod session_notices;
mod session_server;
mod session_simulator;
mod session_takeover;
mod session_talk;
mod simulator_client;
mod simulator_commands;
mod simulator_faults;
mod simulator_fencing;
mod simulator_load;
mod simulator_reading;
mod simulator_relay;
mod store_agree;
mod store_batches;
mod store_content;
mod store_contract;
mod store_fixture;
mod store_intents;
mod store_lease;
mod store_lease_postgres;
mod store_look_up;
mod store_postgres;
mod store_proxy;
mod store_settle;
mod store_speed;
mod store_sqlite;
mod upgrade;

/// A valid configuration of a daemon that lives in `directory` and finds no server.
fn daemon_config(directory: &std::path::Path) -> std::path::PathBuf {
    let shown = directory.display();
    let text = format!(
        "[scheduler]\ndomain = 1\nname = \"test\"\nnode = \"test\"\nstate_directory = \"{shown}/state\"\n\
         [store]\nurl = \"sqlite:remeet.db\"\n\
         [[server]]\nid = 1\nname = \"none\"\naddress = \"127.0.0.1:9\"\n\
         [clients]\nlisten = \"127.0.0.1:0\"\n\
         [operator]\nsocket = \"{shown}/operator.sock\"\n"
    );
    let path = directory.join("remeet.toml");
    std::fs::write(&path, text).unwrap();
    path
}
