//! `REMEET_<SECTION>__<KEY>=value` on top of the file.

use super::error::Problem;
use super::{Config, secret};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// The variables of this process; those that are not UTF-8 are left out.
#[must_use]
pub fn process_environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Puts the variables' settings into `file`. Variables that do not look like
/// `REMEET_<SECTION>__<KEY>` are none of ours: `REMEET_CONFIG` is read by the command line.
pub(super) fn apply(file: &mut Table, environment: &Environment) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    for (variable, text) in environment {
        let Some((section, key)) = setting(variable) else { continue };
        match value(&section, &key, text) {
            Ok(value) => {
                let entry = file.entry(section).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(table) = entry {
                    table.insert(key, value);
                }
            }
            Err(text) => problems.push(Problem { place: format!("variable {variable}"), text }),
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Section and key of a variable's name.
fn setting(variable: &str) -> Option<(String, String)> {
    let (section, key) = variable.strip_prefix("REMEET_")?.split_once("__")?;
    Some((section.to_ascii_lowercase(), key.to_ascii_lowercase()))
}

/// The value of a variable, as the type that its setting has: first as a text, then as TOML.
fn value(section: &str, key: &str, text: &str) -> Result<Value, String> {
    if section == "server" || section == "client" {
        return Err(format!("[[{section}]] is a list and can be given in the file only: unset the variable"));
    }
    let as_text = Value::String(text.to_owned());
    let Err(first) = alone(section, key, &as_text) else { return Ok(as_text) };
    let as_toml: Option<Value> = format!("value = {text}").parse::<Table>().ok().and_then(|mut it| it.remove("value"));
    let reason = match as_toml {
        Some(value) => match alone(section, key, &value) {
            Ok(()) => return Ok(value),
            Err(reason) => reason,
        },
        None => first,
    };
    Err(format!("{}; correct or unset the variable", secret::shown(&reason)))
}

/// Whether a configuration with nothing but this setting can be read.
fn alone(section: &str, key: &str, value: &Value) -> Result<(), String> {
    let inner = Table::from_iter([(key.to_owned(), value.clone())]);
    let outer = Table::from_iter([(section.to_owned(), Value::Table(inner))]);
    Config::deserialize(outer).map(|_| ()).map_err(|error| error.message().to_owned())
}
