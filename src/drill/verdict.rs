//! What the drill came to: a table and a line for people, an object for programs.

use super::options::DrillKind;
use super::plan::Moment;
use crate::ops::status::{Phase, RoundReport};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// Counts over all cycles.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cycles: u32,
    /// Kills or stops, by the moment that was planned.
    pub(crate) strikes: BTreeMap<Moment, u64>,
    /// Kills in a recovery, by what the scheduler said of itself just before; none: nothing yet.
    pub(crate) struck_while: BTreeMap<&'static str, u64>,
    pub(crate) commands: u64,
    pub(crate) repeats: u64,
    pub(crate) recovered: u64,
    pub(crate) keys_from_database: u64,
    pub(crate) keys_from_cache: u64,
    /// From the start, or the stop of the other one, to the last acceptance, of each recovery.
    pub(crate) recoveries_ms: Vec<u64>,
    pub(crate) stale_refused: u64,
    pub(crate) stale_executed: u64,
    /// Readings that a second one did not confirm.
    pub(crate) unconfirmed: u64,
    pub(crate) differences: u64,
    /// Why it ended early.
    pub(crate) broken: bool,
}

/// The same for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    ok: bool,
    kind: DrillKind,
    seed: u64,
    first_cycle: u32,
    cycles: u32,
    strikes: &'a BTreeMap<Moment, u64>,
    struck_while: &'a BTreeMap<&'static str, u64>,
    commands: u64,
    repeats: u64,
    meetings_recovered: u64,
    keys_from_database: u64,
    keys_from_cache: u64,
    recoveries: usize,
    recovery_median_ms: u64,
    recovery_p99_ms: u64,
    stale_refused: u64,
    stale_executed: u64,
    unconfirmed: u64,
    differences: u64,
}

impl Tally {
    pub(crate) fn struck(&mut self, moment: Moment) {
        *self.strikes.entry(moment).or_default() += 1;
    }

    pub(crate) fn struck_while(&mut self, phase: Option<Phase>) {
        *self.struck_while.entry(phase.map_or("not answering yet", Phase::name)).or_default() += 1;
    }

    pub(crate) fn round(&mut self, round: &RoundReport) {
        self.recovered += round.recovered;
        self.keys_from_database += round.keys_from_database;
        self.keys_from_cache += round.keys_from_cache;
    }

    /// The value below which `percent` of the recoveries are.
    fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.recoveries_ms.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(place).copied().unwrap_or(0)
    }

    pub(crate) fn ok(&self) -> bool {
        !self.broken && self.differences == 0 && self.stale_executed == 0 && self.cycles > 0
    }

    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let mut row = |what: &str, count: u64| {
            table.add_row([what.to_owned(), count.to_string()]);
        };
        row("cycles", self.cycles.into());
        for (moment, count) in &self.strikes {
            row(words(*moment), *count);
        }
        for (phase, count) in &self.struck_while {
            row(&format!("kills in a recovery, scheduler {phase}"), *count);
        }
        row("commands answered", self.commands);
        row("answered commands repeated", self.repeats);
        row("meetings recovered", self.recovered);
        row("keys from the database", self.keys_from_database);
        row("keys from the cache", self.keys_from_cache);
        row("recoveries", self.recoveries_ms.len() as u64);
        row("recovery, median, ms", self.percentile(50));
        row("recovery, p99, ms", self.percentile(99));
        row("requests of stale tokens refused", self.stale_refused);
        row("commands of stale tokens executed", self.stale_executed);
        row("readings not confirmed by a second one", self.unconfirmed);
        row("differences", self.differences);
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    pub(crate) fn sentence(&self, kind: DrillKind, seed: u64) -> String {
        let what = match kind {
            DrillKind::Crash => "kill",
            DrillKind::Pause => "stop",
        };
        let strikes: u64 = self.strikes.values().sum();
        format!(
            "{}: {} cycles, {strikes} {what}s, {} differences, {} stale commands executed (seed {seed})",
            if self.ok() { "OK" } else { "NOT OK" },
            self.cycles,
            self.differences,
            self.stale_executed
        )
    }

    pub(crate) fn json(&self, kind: DrillKind, seed: u64, first_cycle: u32) -> String {
        let report = Report {
            ok: self.ok(),
            kind,
            seed,
            first_cycle,
            cycles: self.cycles,
            strikes: &self.strikes,
            struck_while: &self.struck_while,
            commands: self.commands,
            repeats: self.repeats,
            meetings_recovered: self.recovered,
            keys_from_database: self.keys_from_database,
            keys_from_cache: self.keys_from_cache,
            recoveries: self.recoveries_ms.len(),
            recovery_median_ms: self.percentile(50),
            recovery_p99_ms: self.percentile(99),
            stale_refused: self.stale_refused,
            stale_executed: self.stale_executed,
            unconfirmed: self.unconfirmed,
            differences: self.differences,
        };
        // Numbers, names, truth values: always JSON.
        serde_json::to_string(&report).unwrap_or_else(|_| "{\"ok\":false}".to_owned())
    }
}

fn words(moment: Moment) -> &'static str {
    match moment {
        Moment::Quiet => "struck in quiet",
        Moment::Commands => "struck in the middle of commands",
        Moment::Recovery => "struck in a recovery",
        Moment::SecondRecovery => "struck in the recovery of that",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_a_stale_command_or_nothing_done_is_not_ok() {
        let good = || Tally { cycles: 3, recoveries_ms: (1..=100).collect(), ..Tally::default() };
        assert!(good().ok());
        assert!(!Tally { differences: 1, ..good() }.ok());
        assert!(!Tally { stale_executed: 1, ..good() }.ok());
        assert!(!Tally { broken: true, ..good() }.ok());
        assert!(!Tally::default().ok());
        assert_eq!((good().percentile(50), good().percentile(99), Tally::default().percentile(50)), (50, 99, 0));
        assert!(good().sentence(DrillKind::Crash, 9).starts_with("OK: 3 cycles"));
        assert!(good().json(DrillKind::Crash, 9, 1).starts_with(r#"{"ok":true,"kind":"crash","seed":9"#));
    }
}
