//! From a file, credentials and variables to a checked [`Config`].

use super::error::{ConfigError, Problem};
use super::{Config, Environment, SecretUrl, check, environment, secret};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use toml::Table;

/// Secrets that the service manager hands over in files.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// Content of `store-url`.
    pub store_url: Option<SecretUrl>,
    /// Content of `cache-url`.
    pub cache_url: Option<SecretUrl>,
}

impl Credentials {
    /// Reads what is there in `directory`. A file that is missing is no error; one that cannot be read is.
    fn read(directory: &Path) -> Result<Self, ConfigError> {
        let one = |name: &str| {
            let path = directory.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(Some(SecretUrl::new(&text))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(ConfigError::Unreadable { path, source }),
            }
        };
        Ok(Self { store_url: one("store-url")?, cache_url: one("cache-url")? })
    }
}

/// The most bytes of a configuration file: 10,000 servers and clients take about 1 MiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Reads, completes and checks the configuration at `path`. `environment` is usually
/// [`process_environment`](super::process_environment)`()`.
///
/// # Errors
/// Every problem found, each with its place and its remedy.
pub fn load(path: &Path, environment: &Environment) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        let text = format!("is larger than {FILE_BYTES_MAX} bytes, which no configuration needs: give another file");
        return Err(ConfigError::Wrong(vec![Problem { place: path.display().to_string(), text }]));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let credentials = match environment.get("CREDENTIALS_DIRECTORY") {
        Some(directory) => Credentials::read(Path::new(directory))?,
        None => Credentials::default(),
    };
    let mut environment = environment.clone();
    // The machine's name, only where neither the file nor a variable names the node.
    if let Some(host) = host_name() {
        environment.entry(HOST_NAME.to_owned()).or_insert(host);
    }
    parse(&text, &environment, &credentials)
}

/// The same from texts: no file is touched.
///
/// # Errors
/// Every problem found, each with its place and its remedy.
pub fn parse(text: &str, environment: &Environment, credentials: &Credentials) -> Result<Config, ConfigError> {
    let mut config = read(text, environment)?;
    let not_in_environment = |variable: &str| !environment.contains_key(variable);
    if let Some(url) = credentials.store_url.as_ref().filter(|_| not_in_environment("REMEET_STORE__URL")) {
        config.store.url = url.clone();
    }
    if let Some(url) = credentials.cache_url.as_ref().filter(|_| not_in_environment("REMEET_CACHE__URL")) {
        config.cache.url = url.clone();
    }
    if config.scheduler.node.is_empty() {
        config.scheduler.node = environment.get(HOST_NAME).cloned().unwrap_or_default();
    }
    for server in &mut config.servers {
        if server.domain.0 == 0 {
            server.domain = config.scheduler.domain;
        }
    }
    check::check(&config)?;
    Ok(config)
}

/// The operator's socket alone, for who may not read the rest: credentials are not touched, and what
/// is missing elsewhere is no error.
///
/// # Errors
/// The file cannot be read, or a setting in it has a wrong name or type.
pub fn operator_socket(path: &Path, environment: &Environment) -> Result<PathBuf, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    read(&text, environment).map(|config| config.operator.socket)
}

/// The settings of the file with the environment's on top, not checked yet.
fn read(text: &str, environment: &Environment) -> Result<Config, ConfigError> {
    // Once as it stands, so that what is wrong in the file is told with its line.
    toml::from_str::<Config>(text).map_err(|error| in_file(text, &error))?;
    let mut table: Table = toml::from_str(text).map_err(|error| in_file(text, &error))?;
    environment::apply(&mut table, environment).map_err(ConfigError::Wrong)?;
    Config::deserialize(table).map_err(|error| in_file(text, &error))
}

/// Under this name [`load`] hands the machine's name to [`parse`]. The unit sets it; shells have it, but
/// do not export it.
const HOST_NAME: &str = "HOSTNAME";

/// The kernel's word, or, in a sandbox that hides it, the file that it came from.
fn host_name() -> Option<String> {
    ["/proc/sys/kernel/hostname", "/etc/hostname"].iter().find_map(|file| {
        let name = fs::read_to_string(file).ok()?;
        let name = name.trim();
        (!name.is_empty()).then(|| name.to_owned())
    })
}

/// A problem of the file, with its line and without the line's text, which may hold a password.
fn in_file(text: &str, error: &toml::de::Error) -> ConfigError {
    let place = match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            format!("line {}, column {column}", before.matches('\n').count() + 1)
        }
        None => "the file".to_owned(),
    };
    let remedy = if error.message().starts_with("unknown field") { "correct or remove it" } else { "correct it" };
    let text = format!("{}; {remedy}", secret::shown(error.message().trim()));
    ConfigError::Wrong(vec![Problem { place, text }])
}
