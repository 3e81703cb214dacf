//! The status report for a terminal: for an operator at night, what is wrong stands first.

use super::{Completeness, LegCounts, LinkState, Phase, RoundReport, ServerStatus, SinkHealth, Status};
use crate::recovery::lease::LeaseView;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;
use std::time::Duration;

/// The most alarms printed; all of them are in `--json`.
const ALARMS_SHOWN: usize = 10;
/// The most names of missing content printed a round; more of them are in `--json`.
const MISSING_SHOWN: usize = 10;
/// The most characters of a line's free text: what a server said last can be long.
const TEXT_CHARS_MAX: usize = 100;
/// Of an alarm's: it says what to do at its end.
const ALARM_CHARS_MAX: usize = 320;

/// The report as text, ending with a new line.
#[must_use]
pub fn print(status: &Status) -> String {
    let mut out = String::new();
    headline(status, &mut out);
    troubles(status, &mut out);
    out.push('\n');
    out.push_str(&servers(status));
    if !status.rounds.is_empty() {
        out.push('\n');
        out.push_str(&rounds(status));
        missing(status, &mut out);
    }
    out.push('\n');
    let ago = |since| span(status.at_ms, since);
    for (name, sink) in [("store", &status.store), ("cache", &status.cache)] {
        let _ = writeln!(out, "{name:<9}{}", sink_line(sink, &ago(sink.since_ms)));
    }
    let clients = &status.clients;
    let _ = writeln!(
        out,
        "clients  {} connected, {} subscribed, at {}",
        clients.connected, clients.subscribed, clients.listen
    );
    alarms(status, &mut out);
    out
}

fn headline(status: &Status, out: &mut String) {
    let term = match &status.term {
        Some(term) => format!("epoch {} for {}", term.epoch, span(status.at_ms, term.since_ms)),
        None => lease(&status.lease),
    };
    let _ = writeln!(
        out,
        "remeet {} · {} · domain {} · node {} · pid {}",
        status.version, status.name, status.domain, status.node, status.pid
    );
    let _ = writeln!(
        out,
        "{} for {} · {term} · up {}",
        status.phase.name(),
        span(status.at_ms, status.phase_since_ms),
        span(status.at_ms, status.started_at_ms)
    );
    // Orphans are nobody's here: they have a line of their own.
    let LegCounts { live, in_meeting, orphans, .. } = status.totals;
    let _ = writeln!(out, "{in_meeting} of {} in control", counted(live.saturating_sub(orphans), "live meeting"));
}

/// Why this scheduler has no term.
fn lease(lease: &LeaseView) -> String {
    match lease {
        LeaseView::Standby { incumbent: Some(incumbent), incumbent_remaining_ms, .. } => format!(
            "node {} holds term {}, for {}.{} s yet",
            cut(&incumbent.node, TEXT_CHARS_MAX),
            incumbent.epoch,
            incumbent_remaining_ms / 1_000,
            incumbent_remaining_ms % 1_000 / 100
        ),
        LeaseView::Standby { held_back_ms: ms @ 1.., .. } => {
            format!("it has handed over and begins no term for {} s", ms.div_ceil(1_000))
        }
        _ => "no term yet".to_owned(),
    }
}

/// One line for each thing that is wrong, or one that says that nothing is.
fn troubles(status: &Status, out: &mut String) {
    let mut lines = Vec::new();
    if status.phase == Phase::WaitingForDatabase {
        lines.push("the database does not answer: no takeover before it does".to_owned());
    }
    if status.lease == LeaseView::Lapsed {
        lines.push("the lease has lapsed: no command is sent until the store renews it".to_owned());
    }
    for (name, sink) in [("store", &status.store), ("cache", &status.cache)] {
        if !sink.healthy {
            let since = span(status.at_ms, sink.since_ms);
            lines.push(format!("{name} failing for {since}{}", reason(sink.last_error.as_deref())));
        }
    }
    for server in status.servers.iter().filter(|server| !matches!(server.link, LinkState::Attached | LinkState::Up)) {
        let since = span(status.at_ms, server.link_since_ms);
        lines.push(format!(
            "server {} {} {} for {since}, {}{}",
            server.id,
            server.name,
            server.link.name(),
            counted(server.legs.live, "meeting"),
            reason(server.last_error.as_deref())
        ));
    }
    let counts = status.totals;
    for (count, what, more) in [
        (counts.pending, "meeting", "pending: remeet troubled"),
        (counts.quarantined, "meeting", "quarantined, in control without back-fill: remeet troubled"),
        (counts.orphans, "orphan", "kept untouched: remeet troubled shows how to adopt or end"),
    ] {
        if count > 0 {
            lines.push(format!("{} {more}", counted(count, what)));
        }
    }
    let standing = status.alarms.standing();
    if standing > 0 {
        lines.push(format!("{}, below", counted(standing as u64, "alarm")));
    }
    if lines.is_empty() {
        out.push_str("nothing is wrong\n");
    }
    for line in lines {
        let _ = writeln!(out, "! {line}");
    }
}

fn reason(error: Option<&str>) -> String {
    error.map_or_else(String::new, |error| format!(": {}", cut(error, TEXT_CHARS_MAX)))
}

/// A number of things: the plural of each is made with an s.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn servers(status: &Status) -> String {
    let head = [
        "server",
        "name",
        "address",
        "link",
        "live",
        "in control",
        "recovering",
        "pending",
        "orphans",
        "queued",
        "faults",
    ];
    let mut rows: Vec<Vec<String>> = status.servers.iter().map(server_row).collect();
    // What is wrong first: not attached, then pending, then the rest in order of id.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&place| {
        let server = &status.servers[place];
        (server.link == LinkState::Attached, server.legs.pending == 0, server.id)
    });
    rows = order.into_iter().map(|place| rows[place].clone()).collect();
    table(&head, rows, 4)
}

fn server_row(server: &ServerStatus) -> Vec<String> {
    let legs = &server.legs;
    let mut row = vec![
        server.id.to_string(),
        cut(&server.name, TEXT_CHARS_MAX),
        match (server.address, server.under) {
            (Some(address), _) => address.to_string(),
            (None, Some(parent)) => format!("under {parent}"),
            (None, None) => String::new(),
        },
        server.link.name().to_owned(),
    ];
    let faults = server.misbehaviour.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let counts = [legs.live, legs.in_meeting, legs.recovering, legs.pending, legs.orphans, server.queues.sum(), faults];
    row.extend(counts.map(|count| count.to_string()));
    row
}

fn rounds(status: &Status) -> String {
    let head = [
        "round",
        "ago",
        "live",
        "recovered",
        "orphans",
        "ended",
        "pending",
        "vanished",
        "keys db",
        "keys cache",
        "control",
        "back-fill",
        "complete",
    ];
    table(&head, status.rounds.iter().map(|round| round_row(status, round)).collect(), 1)
}

fn round_row(status: &Status, round: &RoundReport) -> Vec<String> {
    let ago = match round.ended_at_ms {
        Some(at) => span(status.at_ms, at),
        None => "running".to_owned(),
    };
    let mut row = vec![round.trigger.name().to_owned(), ago];
    let counts = [
        round.meetings_live,
        round.recovered,
        round.orphans,
        round.ended,
        round.pending,
        round.vanished,
        round.keys_from_database,
        round.keys_from_cache,
    ];
    row.extend(counts.map(|count| count.to_string()));
    row.extend([round.in_control_ms, round.backfilled_ms].map(|ms| ms.map_or("–".to_owned(), |ms| format!("{ms} ms"))));
    row.push(percent(&round.completeness));
    row
}

/// What lacks something, by name (rule 14).
fn missing(status: &Status, out: &mut String) {
    for round in status.rounds.iter().filter(|round| round.missing_total > 0) {
        let _ = writeln!(out, "\nlacking after {}: {}", round.trigger.name(), round.missing_total);
        for name in round.missing.iter().take(MISSING_SHOWN) {
            let _ = writeln!(out, "  {}", cut(name, TEXT_CHARS_MAX));
        }
        let shown = round.missing.len().min(MISSING_SHOWN) as u64;
        if round.missing_total > shown {
            let _ = writeln!(out, "  and {} more: remeet status --json names the first", round.missing_total - shown);
        }
    }
}

/// The least of the groups, never rounded up to 100 %.
fn percent(completeness: &Completeness) -> String {
    format!("{:.1} %", (completeness.least() * 10.0).floor() / 10.0)
}

fn sink_line(sink: &SinkHealth, since: &str) -> String {
    let state = if sink.healthy { "well" } else { "failing" };
    let waiting = if sink.waiting > 0 { format!(", {} writes waiting", sink.waiting) } else { String::new() };
    format!("{} · {state} for {since}{waiting}", sink.what)
}

fn alarms(status: &Status, out: &mut String) {
    if status.alarms.is_empty() {
        return;
    }
    out.push_str("\nalarms, newest first\n");
    for alarm in status.alarms.iter().rev().take(ALARMS_SHOWN) {
        let times = if alarm.count > 1 { format!(" ({} times)", alarm.count) } else { String::new() };
        let over = alarm.ended_ms.map(|at| format!(", over for {}", span(status.at_ms, at))).unwrap_or_default();
        let ago = span(status.at_ms, alarm.last_ms);
        let _ = writeln!(out, "  {ago} ago  {}{times}{over}: {}", alarm.kind, cut(&alarm.text, ALARM_CHARS_MAX));
    }
    if status.alarms.len() > ALARMS_SHOWN {
        let _ = writeln!(out, "  and {} older: remeet status --json", status.alarms.len() - ALARMS_SHOWN);
    }
}

/// Columns from `numbers_from` on are numbers, aligned right.
fn table(head: &[&str], rows: Vec<Vec<String>>, numbers_from: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        // No border and no padding on the left: columns are told apart by two spaces.
        column.set_padding((0, 2));
        if place >= numbers_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The span between two moments, rounded down, in its largest unit; a clock that went back gives 0.
fn span(now_ms: u64, then_ms: u64) -> String {
    let span = Duration::from_millis(now_ms.saturating_sub(then_ms));
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// One line of bounded length; control characters could rewrite the operator's screen.
fn cut(text: &str, most: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    if text.chars().count() <= most { clean.collect() } else { clean.take(most - 1).chain(['…']).collect() }
}
