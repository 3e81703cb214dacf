//! Goal: a wrong configuration is refused with the place, the reason and the remedy; a right one is read
//! as it is written. Method: `parse` over texts and variables; the shipped example; files for `load`.

#![allow(clippy::unwrap_used)]

use remeet::config::{
    CacheAddress, Config, ConfigError, Credentials, Environment, LogFormat, Right, SecretUrl, StoreAddress, load,
    operator_socket, parse,
};
use remeet_protocol::{DomainId, ServerId};
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/remeet.toml");

const SMALL: &str = r#"
[scheduler]
domain = 3
name = "s"
node = "n"

[store]
url = "postgres://remeet:hush@127.0.0.1/remeet"

[[server]]
id = 7
name = "one"
address = "127.0.0.1:7501"

[[client]]
id = 9
name = "panel"
rights = ["control"]
"#;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, &Environment::new(), &Credentials::default())
}

fn read_with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    parse(SMALL, &environment(variables), &Credentials::default())
}

fn message(result: Result<Config, ConfigError>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn the_shipped_example_is_valid() {
    let config = load(Path::new(EXAMPLE), &environment(&[("HOSTNAME", "node-1")])).unwrap();
    assert_eq!(config.servers.len(), 2);
    assert_eq!(config.scheduler.node, "node-1");
    assert_eq!(config.store_address(), Some(StoreAddress::Sqlite("/var/lib/remeet/remeet.db".into())));
    assert_eq!(config.cache_address(), Some(CacheAddress::Memory));
    assert_eq!(config.remarks(), Vec::<String>::new());
}

#[test]
fn what_the_example_shows_as_a_default_is_the_default() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let is_setting = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '#']));
    let settings = |text: &str| text.lines().filter(|line| is_setting(line)).count();
    let shown: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if is_setting(setting) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(settings(&shown) > settings(&text) + 20, "the example shows defaults: {shown}");
    let host = environment(&[("HOSTNAME", "node-1")]);
    let credentials = Credentials::default();
    assert_eq!(parse(&shown, &host, &credentials).unwrap(), parse(&text, &host, &credentials).unwrap());
}

#[test]
fn an_unknown_key_is_refused_in_every_section_with_its_name_and_line() {
    for section in [
        "[scheduler]",
        "[store]",
        "[cache]",
        "[link]",
        "[[server]]",
        "[clients]",
        "[[client]]",
        "[recovery]",
        "[operator]",
        "[log]",
    ] {
        let text = format!("# a comment\n{section}\nmispelt = 1\n");
        let message = message(read(&text));
        assert!(message.contains("unknown field `mispelt`"), "{section}: {message}");
        assert!(message.contains("line 3"), "{section}: {message}");
        assert!(message.contains("correct or remove it"), "{section}: {message}");
    }
    assert!(message(read("[shceduler]\n")).contains("unknown field `shceduler`"));
}

#[test]
fn each_bad_value_is_named_with_its_key_and_its_remedy() {
    for (good, bad, key, said) in [
        ("domain = 3", "domain = 0", "scheduler.domain", "1 or more"),
        ("name = \"s\"", "name = \" \"", "scheduler.name", "give a name"),
        ("name = \"s\"", &format!("name = \"{}\"", "x".repeat(65)), "scheduler.name", "shorter name"),
        ("node = \"n\"", "node = \"a\\nb\"", "scheduler.node", "control characters"),
        ("node = \"n\"", "node = \"n\"\nstate_directory = \"x\"", "scheduler.state_directory", "begin it with /"),
        ("domain = 3", "domain = -3", "line 3", "-3"),
        ("url = ", "connections_max = 1\nurl = ", "store.connections_max", "2 to 64"),
        ("url = ", "write_deadline_ms = 9000\nurl = ", "store.write_deadline_ms", "50 to 2000"),
        ("url = ", "read_deadline_ms = 1\nurl = ", "store.read_deadline_ms", "100 to 60000"),
        ("id = 7", "id = 0", "(id 0), id", "1 or more"),
        ("127.0.0.1:7501", "10.0.0.1:7501", "address", "not a loopback address"),
        ("127.0.0.1:7501", "127.0.0.1:0", "address", "port 0"),
        ("127.0.0.1:7501", "localhost:7501", "line 13", "write IP:port"),
        ("name = \"one\"", "name = \"\"", "[[server]] number 1 (id 7), name", "give a name"),
        ("id = 9", "id = 0", "[[client]] number 1", "1 or more"),
        ("[\"control\"]", "[]", "rights", "\"view\""),
        ("[\"control\"]", "[\"root\"]", "line 18", "unknown variant `root`"),
        ("[[client]]", "[clients]\nlisten = \"0.0.0.0:1\"\n[[client]]", "clients.listen", "not a loopback address"),
        ("[[client]]", "[clients]\nconnections_max = 0\n[[client]]", "clients.connections_max", "1 to 65536"),
        ("[[client]]", "[clients]\nmeetings_max = 0\n[[client]]", "clients.meetings_max", "1 to 1000000"),
        ("[[client]]", "[cache]\nurl = \"memcached://h\"\n[[client]]", "cache.url", "redis://host"),
        (
            "[[client]]",
            "[link]\nreconnect_first_ms = 6000\n[[client]]",
            "link.reconnect_first_ms",
            "link.reconnect_max_ms",
        ),
        ("[[client]]", "[recovery]\nrequests_in_flight = 0\n[[client]]", "recovery.requests_in_flight", "2 to 256"),
        ("[[client]]", "[recovery]\nround_deadline_s = 9999\n[[client]]", "recovery.round_deadline_s", "(seconds)"),
        ("[[client]]", "[operator]\nsocket = \"x.sock\"\n[[client]]", "operator.socket", "begin it with /"),
        (
            "[[client]]",
            &format!("[operator]\nsocket = \"/{}\"\n[[client]]", "x".repeat(120)),
            "operator.socket",
            "shorter",
        ),
        ("[[client]]", "[log]\nfilter = \"remeet=loud\"\n[[client]]", "log.filter", "is not a filter"),
        ("[[client]]", "[log]\nformat = \"xml\"\n[[client]]", "line 16", "unknown variant `xml`"),
        ("[[client]]", "[log\n[[client]]", "line 15", "correct it"),
    ] {
        let text = SMALL.replacen(good, bad, 1);
        assert_ne!(text, SMALL, "the case changes nothing: {good}");
        let message = message(read(&text));
        assert!(message.contains(key), "{bad}: {message}");
        assert!(message.contains(said), "{bad}: {message}");
        assert!(!message.contains("hush"), "{bad}: {message}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let text = SMALL.replace("domain = 3", "").replace("127.0.0.1:7501", "10.0.0.1:7501").replace("id = 9", "id = 0");
    let ConfigError::Wrong(problems) = read(&text).unwrap_err() else { panic!("must be wrong") };
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn two_servers_or_clients_cannot_share_an_id_or_address() {
    let server = "[[server]]\nid = 7\nname = \"two\"\naddress = \"127.0.0.1:7501\"\n";
    let client = "[[client]]\nid = 9\nname = \"other\"\nrights = [\"view\"]\n";
    let message = message(read(&format!("{SMALL}{server}{client}")));
    for said in [
        "[[server]] number 2 (id 7), id: is the id of number 1 too",
        "[[server]] number 2 (id 7), address: 127.0.0.1:7501 is the address of number 1 too",
        "[[client]] number 2 (id 9), id: is the id of number 1 too",
    ] {
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn a_configuration_without_a_store_or_server_says_what_to_give() {
    let message = message(read("[scheduler]\ndomain = 1\nname = \"s\"\nnode = \"n\"\n"));
    assert!(message.contains("store.url: is missing: give postgres://"), "{message}");
    assert!(message.contains("REMEET_STORE__URL"), "{message}");
    assert!(message.contains("name at least one autonomous server"), "{message}");
}

#[test]
fn a_store_in_memory_is_refused_for_it_would_forget_recovery_keys() {
    let text = SMALL.replace("postgres://remeet:hush@127.0.0.1/remeet", "sqlite::memory:");
    assert!(message(read(&text)).contains("names no durable store"));
}

#[test]
fn variables_replace_settings_of_every_type() {
    let config = read_with(&[
        ("REMEET_STORE__URL", "sqlite:/x/y.db"),
        ("REMEET_CACHE__DEADLINE_MS", "250"),
        ("REMEET_CLIENTS__LISTEN", "[::1]:0"),
        ("REMEET_SCHEDULER__NAME", "12"),
        ("REMEET_SCHEDULER__DOMAIN", "12"),
        ("REMEET_LOG__FORMAT", "json"),
        ("REMEET_CONFIG", "none of ours"),
        ("PATH", "none of ours"),
    ])
    .unwrap();
    assert_eq!(config.store_address(), Some(StoreAddress::Sqlite("/x/y.db".into())));
    assert_eq!(config.cache.deadline, Duration::from_millis(250));
    assert_eq!(config.clients.listen, "[::1]:0".parse().unwrap());
    assert_eq!((config.scheduler.name.as_str(), config.scheduler.domain), ("12", DomainId(12)));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn a_wrong_variable_is_refused_with_its_name() {
    for (variable, value, said) in [
        ("REMEET_STORE__ULR", "x", "unknown field `ulr`"),
        ("REMEET_SHOP__URL", "x", "unknown field `shop`"),
        ("REMEET_CACHE__DEADLINE_MS", "soon", "expected u64"),
        ("REMEET_CACHE__DEADLINE_MS", "-5", "-5"),
        ("REMEET_SERVER__ID", "1", "in the file only"),
        ("REMEET_CACHE__DEADLINE_MS", "redis://u:hush@h", "expected u64"),
    ] {
        let message = message(read_with(&[(variable, value)]));
        assert!(message.contains(&format!("variable {variable}")), "{message}");
        assert!(message.contains(said), "{message}");
        assert!(!message.contains("hush"), "{message}");
    }
    let out_of_range = message(read_with(&[("REMEET_STORE__WRITE_DEADLINE_MS", "60000")]));
    assert!(out_of_range.contains("store.write_deadline_ms"), "{out_of_range}");
}

#[test]
fn a_credential_stands_above_the_file_and_below_the_environment() {
    let credentials = Credentials {
        store_url: Some(SecretUrl::new("postgres://c:hush@127.0.0.1/c\n")),
        cache_url: Some(SecretUrl::new("redis://127.0.0.1:6379")),
    };
    let config = parse(SMALL, &Environment::new(), &credentials).unwrap();
    assert_eq!(config.store.url.expose(), "postgres://c:hush@127.0.0.1/c");
    assert!(matches!(config.cache_address(), Some(CacheAddress::Redis(_))));
    let above = environment(&[("REMEET_STORE__URL", "sqlite:e.db")]);
    assert_eq!(parse(SMALL, &above, &credentials).unwrap().store.url.expose(), "sqlite:e.db");
}

#[test]
fn credentials_are_read_from_the_directory_that_systemd_names() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("remeet.toml");
    std::fs::write(&file, SMALL).unwrap();
    let variables = environment(&[("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap())]);
    assert_eq!(load(&file, &variables).unwrap().store.url.expose(), "postgres://remeet:hush@127.0.0.1/remeet");
    std::fs::write(directory.path().join("store-url"), "postgres://c:hush@127.0.0.1/c\n").unwrap();
    assert_eq!(load(&file, &variables).unwrap().store.url.expose(), "postgres://c:hush@127.0.0.1/c");
}

#[test]
fn a_missing_file_is_named() {
    let message = message(load(Path::new("/nonexistent/remeet.toml"), &Environment::new()));
    assert!(message.contains("/nonexistent/remeet.toml") && message.contains("--config FILE"), "{message}");
}

#[test]
fn no_password_shows_in_a_configuration_printed_for_people() {
    let config = read(SMALL).unwrap();
    let text = format!("{config:?} {} {:?}", config.store.url, config.store_address());
    assert!(text.contains("127.0.0.1/remeet") && !text.contains("hush"), "{text}");
    let wrong = message(read(&SMALL.replace("postgres://", "mysql://")));
    assert!(wrong.contains("mysql://***@127.0.0.1/remeet") && !wrong.contains("hush"), "{wrong}");
    let broken = message(read(&SMALL.replace("/remeet\"", "/remeet\" x")));
    assert!(broken.contains("line 8") && !broken.contains("hush"), "{broken}");
}

#[test]
fn a_server_is_of_the_schedulers_domain_unless_it_says_otherwise() {
    let other = "[[server]]\nid = 8\ndomain = 5\nname = \"two\"\naddress = \"127.0.0.1:7502\"\n";
    let config = read(&format!("{SMALL}{other}")).unwrap();
    let domains: Vec<_> = config.servers.iter().map(|server| (server.id, server.domain)).collect();
    assert_eq!(domains, [(ServerId(7), DomainId(3)), (ServerId(8), DomainId(5))]);
}

#[test]
fn a_right_includes_the_lesser_ones() {
    let config = read(SMALL).unwrap();
    let panel = &config.identities[0];
    assert!(panel.may(Right::View) && panel.may(Right::Control) && !panel.may(Right::Operator));
}

#[test]
fn plain_text_to_another_machine_is_remarked() {
    let config =
        read_with(&[("REMEET_STORE__URL", "postgres://db.example/x"), ("REMEET_CACHE__URL", "redis://cache.example")])
            .unwrap();
    let remarks = config.remarks().join("\n");
    assert!(remarks.contains("sslmode=verify-full") && remarks.contains("rediss://"), "{remarks}");
    let safe = read_with(&[
        ("REMEET_STORE__URL", "postgres://db.example/x?sslmode=verify-full"),
        ("REMEET_CACHE__URL", "rediss://cache.example"),
    ])
    .unwrap();
    assert_eq!(safe.remarks(), Vec::<String>::new());
}

#[test]
fn an_operator_finds_the_socket_without_the_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("remeet.toml");
    std::fs::write(&file, "[operator]\nsocket = \"/run/x.sock\"\n").unwrap();
    assert_eq!(operator_socket(&file, &Environment::new()).unwrap(), PathBuf::from("/run/x.sock"));
    let variables = environment(&[("REMEET_OPERATOR__SOCKET", "/run/y.sock")]);
    assert_eq!(operator_socket(&file, &variables).unwrap(), PathBuf::from("/run/y.sock"));
}

/// SMALL with more servers: (id, what stands in place of the address).
fn with_servers(servers: &[(u32, &str)]) -> Result<Config, ConfigError> {
    let more: String =
        servers.iter().map(|(id, place)| format!("[[server]]\nid = {id}\nname = \"s{id}\"\n{place}\n")).collect();
    read(&format!("{SMALL}{more}"))
}

#[test]
fn a_server_is_dialled_or_under_another_that_is_listed() {
    let config = with_servers(&[(8, "under = 7"), (9, "under = 8")]).unwrap();
    assert_eq!(config.servers[1].under, Some(ServerId(7)));
    assert_eq!(config.tree().dialled(ServerId(9)), ServerId(7));
    assert_eq!(config.tree().reached_through(ServerId(7)), [ServerId(8), ServerId(9)]);
    for (servers, text) in [
        (&[(8, "")][..], "[[server]] number 2 (id 8), address: is missing: give IP:port, or under ="),
        (&[(8, "address = \"127.0.0.1:7502\"\nunder = 7")], "it is dialled or relayed for, not both"),
        (&[(8, "under = 66")], "leads to server 66, which is not listed"),
        (&[(8, "under = 9"), (9, "under = 8")], "leads back to where it began"),
        (&[(8, "under = 8")], "leads back to where it began"),
        (
            &[(8, "under = 7"), (9, "under = 8"), (10, "under = 9"), (11, "under = 10"), (12, "under = 11")],
            "[[server]] number 6 (id 12), under: means 5 relays, link.relays_max allows 4",
        ),
    ] {
        let refused = message(with_servers(servers));
        assert!(refused.contains(text), "{text}: {refused}");
    }
}
