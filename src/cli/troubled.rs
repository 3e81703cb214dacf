//! How `remeet troubled` shows the meetings that are not well: a line each, then what to do about each kind.

use super::output::plain;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Text of what is in trouble, ending with a new line.
pub(super) fn print(troubled: &[Value]) -> String {
    if troubled.is_empty() {
        return "no meeting is in trouble\n".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["meeting/leg", "server", "handle", "why"]);
    let mut kinds = BTreeSet::new();
    for item in troubled {
        let leg = &item["leg"];
        let name = format!("{}/{}", leg["meeting"].as_str().unwrap_or("?"), leg["leg"]);
        let number = |field: &str| item[field].as_u64().map_or_else(String::new, |number| number.to_string());
        let why = item["reason"].as_str().unwrap_or("?");
        table.add_row([name, number("server"), number("handle"), plain(why)]);
        // What follows a colon is about this leg alone.
        kinds.insert(why.split(':').next().unwrap_or(why).to_owned());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    out.push('\n');
    for kind in kinds {
        let _ = writeln!(out, "{}: {}", plain(&kind), what_to_do(&kind));
    }
    out
}

fn what_to_do(kind: &str) -> &'static str {
    match kind {
        "orphan" => {
            "live on its server, without a recovery key here; kept untouched. Take it with remeet client … adopt \
             --server SERVER --handle HANDLE --leg MEETING/LEG; with --end it is ended"
        }
        "quarantined" => {
            "in control, but what is stored of it does not add up to what its server says. remeet lift-quarantine \
             MEETING/LEG pulls it whole again"
        }
        "unreachable" => {
            "its server does not answer; the meeting goes on without command, and is taken over when the server is back"
        }
        "conflict" => "two servers claim it; nothing is killed. End the wrong one at its server",
        "bad key" => {
            "its server refuses the stored recovery key: another scheduler holds a newer one, or the database went back. \
             remeet recover --server SERVER tries again"
        }
        "no key" | "unreadable row" => {
            "its row in the database cannot be used: the log names it. Mend it from a backup"
        }
        _ => "tried again by itself, within seconds; remeet recover --server SERVER tries at once",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_leg_has_a_line_and_each_kind_of_trouble_says_once_what_to_do() {
        let id = "01a21572-af5d-76fa-a8ae-e44c1a9d1a73";
        let leg = |leg: u16| json!({"meeting": id, "leg": leg});
        let text = print(&[
            json!({"leg": leg(0), "server": 1, "reason": "orphan", "handle": 42}),
            json!({"leg": leg(1), "server": 2, "reason": "busy"}),
            json!({"leg": leg(2), "server": 2, "reason": "quarantined: it gives 3 of 4\u{1b}[2J"}),
            json!({"leg": leg(3), "server": 2, "reason": "quarantined: it gives 5 of 4"}),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "meeting/leg                             server  handle  why");
        assert_eq!(lines[1], format!("{id}/0  1       42      orphan"));
        assert_eq!(lines[2], format!("{id}/1  2               busy"));
        assert_eq!(lines[3], format!("{id}/2  2               quarantined: it gives 3 of 4 [2J"));
        assert_eq!(lines.len(), 5 + 1 + 3, "{text}");
        assert!(lines[6].starts_with("busy: tried again by itself"), "{text}");
        assert!(lines[7].starts_with("orphan: ") && lines[7].contains("--handle HANDLE"), "{text}");
        assert!(lines[8].starts_with("quarantined: ") && lines[8].contains("remeet lift-quarantine"), "{text}");
        assert_eq!(print(&[]), "no meeting is in trouble\n");
    }
}
