//! The command line of `remeet demo`.

use crate::stage::{Stores, fraction};

/// The mission end to end: kill -9 the scheduler, take every live meeting back, check every field.
///
/// Simulated servers and the scheduler run as processes of their own, meeting clients connect, the
/// scheduler is killed and started again while meetings change, then one server's link is cut and
/// restored. An independent reader compares database and cache with each server's truth. The exit code
/// is 0 only if there is no difference and everything went as expected.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Simulated autonomous servers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub servers: u32,
    /// Meetings in all, at least 8 for each server; 11 if there is only one.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    pub meetings: u32,
    /// Terminals of each meeting.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub terminals: u16,
    /// Drives every choice, so that a run can be repeated.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The part of the meetings that changes while the scheduler is dead, 0 to 1.
    #[arg(long, default_value_t = 0.25, value_parser = fraction)]
    pub changed: f64,
    /// Real servers instead of the embedded ones.
    #[command(flatten)]
    pub stores: Stores,
    /// Alter one stored field just before the last comparison: the demo must find it and exit with 1.
    #[arg(long)]
    pub plant_difference: bool,
    /// Print the result as one JSON object, the last line of standard output.
    #[arg(long)]
    pub json: bool,
}

/// Meetings that each server needs: one in each of the states at the kill, and one left unchanged.
pub(crate) const MEETINGS_PER_SERVER_MIN: u32 = 8;
/// One server alone has all six commands under way at the kill, one meeting that ends by itself, and a live
/// one of each of the four clients.
const MEETINGS_ALONE_MIN: u32 = 11;

impl Options {
    /// What one option alone cannot tell.
    pub(crate) fn check(&self) -> Result<(), String> {
        let least = (self.servers * MEETINGS_PER_SERVER_MIN).max(MEETINGS_ALONE_MIN);
        if self.meetings < least {
            return Err(format!(
                "--meetings {} is too few for --servers {}: give at least {least}",
                self.meetings, self.servers
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_defaults_are_those_that_the_readme_promises() {
        let options = Program::parse_from(["demo"]).options;
        assert_eq!((options.servers, options.meetings, options.terminals), (4, 200, 8));
        assert!(options.stores.postgres.is_none() && options.stores.redis.is_none() && !options.json);
        options.check().unwrap();
    }

    #[test]
    fn too_few_meetings_are_refused_with_the_number_that_would_do() {
        let options = Program::parse_from(["demo", "--servers", "8", "--meetings", "63"]).options;
        assert!(options.check().unwrap_err().contains("at least 64"));
    }

    #[test]
    fn one_server_needs_as_many_as_all_the_parts_together() {
        let check =
            |meetings: &str| Program::parse_from(["demo", "--servers", "1", "--meetings", meetings]).options.check();
        assert!(check("10").unwrap_err().contains("at least 11"));
        check("11").unwrap();
    }

    #[test]
    fn a_fraction_beyond_one_is_refused() {
        for wrong in ["1.5", "-0.1", "NaN", "half"] {
            assert!(Program::try_parse_from(["demo", &format!("--changed={wrong}")]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_does_not_show_in_the_options() {
        let options = Program::parse_from(["demo", "--postgres", "postgres://u:hush@h/d"]).options;
        assert!(!format!("{options:?}").contains("hush"));
    }
}
