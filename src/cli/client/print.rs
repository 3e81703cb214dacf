//! What `remeet client` prints: a table or sentence for people, an object a line with `--json`.

use crate::cli::output::plain;
use crate::cms::client::{MeetingView, Notice};
use comfy_table::{ContentArrangement, Table, presets};
use remeet_protocol::Change;
use remeet_protocol::message::{ClientAnswer, ClientEvent, LegInfo, ListEntry};
use remeet_protocol::record::{Record, RecordState};
use serde_json::{Value, json};
use std::fmt::Write;

/// The answer to a command.
pub(super) fn answer(answer: &ClientAnswer, as_json: bool) -> String {
    if as_json {
        let object = json!({
            "ok": answer.code.is_ok(),
            "code": answer.code.0,
            "name": answer.code.name(),
            "meeting": answer.meeting,
            "detail": answer.detail.as_str(),
            "instance": answer.instance,
            "number": answer.number,
        });
        return format!("{object}\n");
    }
    // What went wrong goes to standard error.
    if answer.code.is_ok() { format!("done, meeting {}\n", answer.meeting) } else { String::new() }
}

/// A meeting with its records.
pub(super) fn meeting(view: &MeetingView, as_json: bool) -> String {
    let info = &view.info;
    if as_json {
        let records: Vec<Value> = view
            .records
            .iter()
            .map(|(leg, change)| json!({"leg": leg.leg, "revision": change.revision, "record": change.state}))
            .collect();
        return format!(
            "{}\n",
            json!({
                "meeting": info.meeting, "state": name(&info.state), "cause": name(&info.cause),
                "recovering": info.recovering, "update": info.update, "epoch": info.epoch, "server": info.server,
                "number": info.number, "title": info.title, "revision": info.revision,
                "legs": info.legs.iter().map(leg_json).collect::<Vec<_>>(), "records": records,
            })
        );
    }
    let mut out = String::new();
    let _ = writeln!(out, "{} {}: {}", info.meeting, plain(info.number.as_str()), plain(info.title.as_str()));
    let recovering = if info.recovering { ", as stored: it is still being recovered" } else { "" };
    let _ = writeln!(
        out,
        "{} on server {}, revision {}, epoch {}{recovering}",
        name(&info.state),
        info.server,
        info.revision,
        info.epoch
    );
    if info.legs.len() > 1 {
        for leg in &info.legs {
            let _ = writeln!(
                out,
                "  leg {}: {} on server {}, revision {}",
                leg.leg,
                name(&leg.state),
                leg.server,
                leg.revision
            );
        }
    }
    if !view.records.is_empty() {
        let rows = view.records.iter().map(|(leg, change)| {
            let (kind, key, text) = described(change);
            vec![leg.leg.to_string(), change.revision.to_string(), kind.to_owned(), key, text]
        });
        out.push_str(&table(&["leg", "revision", "record", "of", "content"], rows));
    }
    out
}

/// Meetings, a line each.
pub(super) fn list(meetings: &[ListEntry], as_json: bool) -> String {
    if as_json {
        return meetings.iter().map(|entry| format!("{}\n", entry_json(entry))).collect();
    }
    if meetings.is_empty() {
        return "no meeting\n".to_owned();
    }
    let rows = meetings.iter().map(|entry| {
        vec![
            entry.meeting.to_string(),
            name(&entry.state),
            entry.server.to_string(),
            entry.revision.to_string(),
            plain(entry.number.as_str()),
            plain(entry.title.as_str()),
            entry.legs.to_string(),
        ]
    });
    table(&["meeting", "state", "server", "revision", "number", "title", "legs"], rows)
}

/// A snapshot or an event.
pub(super) fn notice(notice: &Notice, as_json: bool) -> String {
    match notice {
        Notice::Snapshot { epoch, meetings } if as_json => {
            let meetings: Vec<Value> = meetings.iter().map(entry_json).collect();
            format!("{}\n", json!({"snapshot": meetings, "epoch": epoch}))
        }
        Notice::Snapshot { epoch, meetings } => {
            format!("snapshot in epoch {epoch}: {} meetings\n{}", meetings.len(), list(meetings, false))
        }
        Notice::Event(event) => self::event(event, as_json),
    }
}

fn event(event: &ClientEvent, as_json: bool) -> String {
    if as_json {
        return format!(
            "{}\n",
            json!({
                "event": name(&event.kind), "epoch": event.epoch, "sequence": event.sequence, "meeting": event.leg.meeting,
                "leg": event.leg.leg, "state": name(&event.state), "cause": name(&event.cause),
                "revision": event.revision, "changes": event.changes,
            })
        );
    }
    let mut out = format!("{} {} {}, revision {}\n", event.leg, name(&event.kind), name(&event.state), event.revision);
    for change in &event.changes {
        let (kind, key, text) = described(change);
        let _ = writeln!(out, "  {kind} {key}: {text}");
    }
    out
}

fn entry_json(entry: &ListEntry) -> Value {
    json!({
        "meeting": entry.meeting, "state": name(&entry.state), "server": entry.server, "revision": entry.revision,
        "number": entry.number, "title": entry.title, "legs": entry.legs,
    })
}

fn leg_json(leg: &LegInfo) -> Value {
    json!({"leg": leg.leg, "server": leg.server, "state": name(&leg.state), "revision": leg.revision})
}

/// Kind, key and content of a changed record, in words.
fn described(change: &Change) -> (&'static str, String, String) {
    use remeet_protocol::record::RecordKey as Key;
    let record = match &change.state {
        RecordState::Present(record) => record,
        RecordState::Removed(key) => {
            let (kind, of) = match key {
                Key::Leg => ("meeting", String::new()),
                Key::Terminal(number) => ("terminal", plain(number.as_str())),
                Key::Window(number, window) => ("window", format!("{} {window}", plain(number.as_str()))),
                Key::Entry(number, key) => ("extra", format!("{} {}", plain(number.as_str()), plain(key.as_str()))),
            };
            return (kind, of, "removed".to_owned());
        }
    };
    match record {
        Record::Leg(row) => {
            let roles = [("chair", &row.chair), ("first", &row.first_speaker), ("second", &row.second_speaker)];
            let roles: Vec<String> = roles
                .iter()
                .filter(|(_, number)| !number.is_empty())
                .map(|(role, number)| format!("{role} {}", plain(number.as_str())))
                .collect();
            ("meeting", String::new(), roles.join(", "))
        }
        Record::Terminal(row) => {
            let business = row.business.as_ref().map_or("unknown".to_owned(), |business| name(&business.state));
            let decode = row.decode.as_ref().map_or("unknown".to_owned(), |decode| name(&decode.display_mode));
            let online = if row.online { "online" } else { "offline" };
            let text = format!("{}: {business}, {online}, decodes {decode}", plain(row.name.as_str()));
            ("terminal", plain(row.number.as_str()), text)
        }
        Record::Window(row) => {
            let source = if row.source.is_empty() { "nothing".to_owned() } else { plain(row.source.as_str()) };
            let media = match (row.video, row.audio) {
                (true, true) => "video and audio",
                (true, false) => "video",
                (false, true) => "audio",
                (false, false) => "nothing",
            };
            let text = format!("{media} of {source}, channel {}, {} errors", row.channel, row.errors);
            ("window", format!("{} {}", plain(row.terminal.as_str()), row.window), text)
        }
        Record::Entry(row) => {
            let of = format!("{} {}", plain(row.terminal.as_str()), plain(row.key.as_str()));
            ("extra", of, plain(&String::from_utf8_lossy(row.value.as_bytes())))
        }
    }
}

/// `InMeeting` as `in meeting`; a value of a later version by its number.
fn name(value: &impl std::fmt::Debug) -> String {
    let mut out = String::new();
    for c in format!("{value:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
