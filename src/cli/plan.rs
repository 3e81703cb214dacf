//! A dry run's plans for people: what would be done, and every meeting that is not simply taken over.

use super::output::{self, Failure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Meetings printed of one server; `--json` prints all.
const MEETINGS_MAX: usize = 100;

/// Prints the plans. A server without one makes the exit code 1: the answer is not whole.
pub(super) fn print(plans: &[Value], json: bool) -> Result<(), Failure> {
    for plan in plans {
        let text = if json { format!("{plan}\n") } else { text(plan) };
        output::print(&text)?;
    }
    let lacking: Vec<String> =
        plans.iter().filter(|plan| plan["trouble"].is_string()).map(|plan| plan["server"].to_string()).collect();
    if !lacking.is_empty() {
        return Err(Failure::failed(format!("no plan for server {}", lacking.join(", "))));
    }
    if !json {
        output::line("nothing was done: this is what a round would do now")?;
    }
    Ok(())
}

fn text(plan: &Value) -> String {
    let server = &plan["server"];
    if let Some(trouble) = plan["trouble"].as_str() {
        return format!("server {server}: no plan: {trouble}\n");
    }
    let legs = plan["legs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut lines = Vec::new();
    for leg in legs {
        let (bucket, why) = bucket(&leg["bucket"]);
        let name = if leg["in_control"] == true { "in control".to_owned() } else { bucket };
        *counts.entry(name.clone()).or_default() += 1;
        if !matches!(name.as_str(), "in control" | "take over") {
            lines.push(line(leg, &name, &why));
        }
    }
    let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let counts = if counts.is_empty() { "no meeting".to_owned() } else { counts.join(", ") };
    let mut out = format!("server {server}, table revision {}: {counts}\n", plan["table_revision"]);
    for line in lines.iter().take(MEETINGS_MAX) {
        let _ = writeln!(out, "  {line}");
    }
    if lines.len() > MEETINGS_MAX {
        let _ = writeln!(out, "  and {} more: --json prints all", lines.len() - MEETINGS_MAX);
    }
    out
}

fn line(leg: &Value, name: &str, why: &str) -> String {
    let id = &leg["leg"];
    let mut line = format!("{name:<15} {}/{}", id["meeting"].as_str().unwrap_or("?"), id["leg"]);
    if leg["handle"].is_u64() {
        let _ = write!(line, ", handle {}, {} terminals", leg["handle"], leg["terminals"]);
    }
    if !why.is_empty() {
        let _ = write!(line, ": {why}");
    }
    line
}

/// A bucket in words, and its reason. `"take-over"`, or `{"conflict": "why"}`.
fn bucket(bucket: &Value) -> (String, String) {
    let (name, why) = match bucket {
        Value::String(name) => (name.as_str(), String::new()),
        Value::Object(one) => one.iter().next().map_or(("?", String::new()), |(name, value)| {
            let why = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.as_str(), why)
        }),
        _ => ("?", String::new()),
    };
    (name.replace('-', " "), why)
}
