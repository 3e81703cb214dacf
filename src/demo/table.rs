//! A table for each act: a row for each server.

use crate::ops::status::Status;
use crate::simulator::Stats;
use crate::stage::reader::compare::Findings;
use comfy_table::{CellAlignment, Table, presets};
use remeet_protocol::ServerId;
use std::collections::BTreeMap;

/// The servers as they stand after an act.
pub(crate) fn servers(status: &Status, findings: &Findings, stats: &BTreeMap<ServerId, Stats>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "server",
        "link",
        "live",
        "in meeting",
        "orphans",
        "pending",
        "takeovers",
        "pulls",
        "pulled changes",
        "records compared",
        "differences",
    ]);
    for server in &status.servers {
        let count = |of: &BTreeMap<ServerId, u64>| of.get(&server.id).copied().unwrap_or(0).to_string();
        let stats = stats.get(&server.id).copied().unwrap_or_default();
        table.add_row([
            server.id.to_string(),
            server.link.name().to_owned(),
            server.legs.live.to_string(),
            server.legs.in_meeting.to_string(),
            server.legs.orphans.to_string(),
            server.legs.pending.to_string(),
            stats.takeovers_accepted.to_string(),
            stats.pulls.to_string(),
            stats.pulled_changes.to_string(),
            count(&findings.records),
            count(&findings.by_server),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
