//! Goal: no recovery secret ever reaches the log, at any level. Method: a daemon that logs everything it can,
//! through start, takeover, adoption and a restored link; every stored secret, in every form,
//! is searched in everything that it wrote and in what an operator can print.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use crate::daemon_rig::{Backing, CONTROL, OPERATOR, Rig, add_terminal, ok, said};
use crate::servers::{fresh_database, redis_url};
use remeet::ops::status::{LinkState, Trigger};
use remeet::simulator::Request;
use remeet::store::{Store, StoreOptions};
use remeet_protocol::message::{AdoptOrphan, ClientOp};
use remeet_protocol::{LegId, MeetingId, ServerId};

/// The forms in which 16 bytes could be written down.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let spaced: Vec<String> = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal: Vec<String> = secret.iter().map(ToString::to_string).collect();
    let escaped: String = secret.iter().map(|byte| byte.escape_ascii().to_string()).collect();
    let uuid = uuid::Uuid::from_slice(secret).unwrap().to_string();
    let mut forms = vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        spaced.join(" ").into_bytes(),
        decimal.join(", ").into_bytes(),
        decimal.join(",").into_bytes(),
        escaped.into_bytes(),
        uuid.into_bytes(),
        String::from_utf8_lossy(secret).into_owned().into_bytes(),
    ];
    // Within longer bytes, base64 of a part begins at any of three places: what does not depend on the
    // neighbours is searched.
    for skip in 0..3 {
        forms.extend([BASE64, BASE64_URL].map(|alphabet| base64(&secret[skip..], alphabet).into_bytes()));
    }
    forms
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Whole groups of three bytes only: the rest depends on what follows.
fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let letter = |bits: u32| char::from(alphabet[(bits & 63) as usize]);
    let groups = bytes.chunks_exact(3).map(|group| u32::from_be_bytes([0, group[0], group[1], group[2]]));
    groups.flat_map(|bits| [18, 12, 6, 0].map(|shift| letter(bits >> shift))).collect()
}

fn found(haystack: &[u8], secrets: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for secret in secrets {
        for form in forms(secret) {
            if haystack.windows(form.len()).any(|window| window == form) {
                found.push(String::from_utf8_lossy(&form).into_owned());
            }
        }
    }
    found
}

#[test]
fn the_search_finds_a_secret_in_every_form() {
    let secret: Vec<u8> = (0..16).map(|place| 7 + 13 * place).collect();
    assert_eq!(base64(b"any carnal pleas", BASE64), "YW55IGNhcm5hbCBwbGVh");
    for form in forms(&secret) {
        let log = [b"2026 INFO key=".as_slice(), &form, b" end"].concat();
        assert!(!found(&log, std::slice::from_ref(&secret)).is_empty(), "{form:?}");
    }
    assert!(found(b"2026 INFO nothing at all", &[secret]).is_empty());
}

async fn secrets(url: &str) -> Vec<Vec<u8>> {
    let store: std::sync::Arc<dyn Store> = remeet::store::open(url, &StoreOptions::default()).unwrap();
    let mut secrets = Vec::new();
    let found = store.look_up(ServerId(1), &[]).await.unwrap().found;
    secrets.extend(found.into_iter().filter_map(|found| found.key).map(|key| key.secret.expose().to_vec()));
    store.close().await;
    secrets
}

/// Start, takeover, adoption, a key from the cache, and everything that an operator may print; then the search.
async fn nothing_leaks(backing: &Backing, store: impl Fn(&Rig) -> String) {
    let mut rig = Rig::new(1, backing).await;
    rig.environment("REMEET_LOG__FILTER", "trace");
    rig.start();
    rig.whole().await;
    let client = rig.client(CONTROL).await;
    let mut meetings: Vec<MeetingId> = Vec::new();
    for _ in 0..3 {
        meetings.push(rig.meeting(&client, 1, 1).await);
    }
    let mut known = secrets(&store(&rig)).await;
    rig.kill();
    rig.servers[0].control(Request::CreateForeign { meeting: None, terminals: 1, count: None }).await.unwrap();
    rig.start();
    let status = rig.whole().await;
    assert_eq!((status.totals.in_meeting, status.totals.orphans), (3, 1));
    let orphan = rig.servers[0].dump().legs.into_iter().find(|leg| !meetings.contains(&leg.leg.meeting)).unwrap();
    let adopt = AdoptOrphan { server: ServerId(1), handle: orphan.handle, leg: orphan.leg, end: false };
    let operator = rig.client(OPERATOR).await;
    let adopted = operator.command(MeetingId::default(), ClientOp::Adopt(adopt)).await.unwrap();
    ok(adopted.clone());
    rig.steady().await;
    rig.servers[0].control(Request::CutLink { on: true }).await.unwrap();
    rig.until("cut", |status| status.servers[0].link != LinkState::Attached).await;
    rig.servers[0].control(Request::CutLink { on: false }).await.unwrap();
    rig.until("restored", |status| status.rounds.iter().any(|round| round.trigger == Trigger::LinkRestored)).await;
    let status = rig.whole().await;
    assert_eq!(status.totals.in_meeting, 4);
    for meeting in &meetings {
        ok(client.command(*meeting, add_terminal("640")).await.unwrap());
    }
    let leg = LegId { meeting: meetings[0], leg: 0 }.to_string();
    let printed: String = [
        &["status", "--json"][..],
        &["dump-cache"],
        &["troubled"],
        &["recover"],
        &["lift-quarantine", &leg],
        &["mark", &meetings[0].to_string()],
    ]
    .iter()
    .map(|arguments| said(&rig.remeet(arguments)))
    .collect();
    assert!(printed.contains("secret_sha256"), "{printed}");
    rig.whole().await;
    known.extend(secrets(&store(&rig)).await);
    assert!(rig.terminate().success());
    known.sort();
    known.dedup();
    assert_eq!(known.len(), 4, "each meeting's key, and the adopted one's");
    let log = rig.log();
    assert!(log.contains("DEBUG sqlx") && log.contains("DEBUG remeet"), "statements and links are in it: {log}");
    for told in ["a term began", "trigger=Restart", "trigger=LinkRestored"] {
        assert!(log.contains(told), "{told} is in the log");
    }
    let leaked = found(&[log.as_bytes(), printed.as_bytes()].concat(), &known);
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_recovery_secret_is_logged_or_printed_embedded() {
    let store = |rig: &Rig| format!("sqlite:{}", rig.path("state/remeet.db").display());
    nothing_leaks(&Backing::embedded(), store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_recovery_secret_is_logged_or_printed_on_postgres_and_redis() {
    let (Some(database), Some(cache)) = (fresh_database(), redis_url()) else { return };
    let url = database.url.clone();
    nothing_leaks(&Backing { store: url.clone(), cache }, move |_| url.clone()).await;
}
