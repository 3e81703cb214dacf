//! URLs that may hold a password, and what they name.

use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// A URL whose password never shows: `Debug` and `Display` print [`SecretUrl::shown`].
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// From its text; white space around it is dropped, so that a file may end with a new line.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The whole text, with its password: for the driver that connects, only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text with `***` for user, password and every parameter: for people.
    #[must_use]
    pub fn shown(&self) -> String {
        shown(&self.0)
    }

    /// What stands before the first colon.
    pub(super) fn scheme(&self) -> &str {
        self.0.split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// The host, as far as one stands there; empty for none (a socket, the driver's default).
    pub(super) fn host(&self) -> &str {
        let Some((_, rest)) = self.0.split_once("://") else { return "" };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        match host.strip_prefix('[') {
            Some(six) => six.split(']').next().unwrap_or(""),
            None => host.split(':').next().unwrap_or(""),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({})", self.shown())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// `text` with the secrets of every URL in it replaced: of messages that may quote a setting.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        // A URL ends where a quotation or a word ends. A password with such a character unescaped is
        // not a valid URL; what follows its last `@` up to the line's end is all that is kept then.
        let line_end = after.find('\n').unwrap_or(after.len());
        let (line, tail) = after.split_at(line_end);
        let kept = match line.rfind('@') {
            Some(at) => {
                out.push_str("***");
                &line[at..]
            }
            None => line,
        };
        match kept.find('?') {
            Some(query) => {
                out.push_str(&kept[..query]);
                out.push_str("?***");
                // Nothing after the parameters of a URL is needed to understand a message.
            }
            None => out.push_str(kept),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Where the durable store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// A PostgreSQL server.
    Postgres(SecretUrl),
    /// An SQLite file, relative paths resolved against the state directory.
    Sqlite(PathBuf),
}

impl StoreAddress {
    /// What `url` names; `None` for anything that is no durable store.
    pub(super) fn read(url: &SecretUrl, state_directory: &Path) -> Option<Self> {
        match url.scheme() {
            "postgres" | "postgresql" => Some(Self::Postgres(url.clone())),
            "sqlite" => {
                let path = url.expose().strip_prefix("sqlite:")?;
                let path = path.strip_prefix("//").unwrap_or(path);
                // `sqlite::memory:` would forget every recovery key with the process.
                if path.is_empty() || path.starts_with(':') || path.contains('?') {
                    return None;
                }
                Some(Self::Sqlite(state_directory.join(path)))
            }
            _ => None,
        }
    }
}

/// Where the cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheAddress {
    /// Inside this process.
    Memory,
    /// A Redis server.
    Redis(SecretUrl),
}

impl CacheAddress {
    /// What `url` names; `None` for anything that is no cache.
    pub(super) fn read(url: &SecretUrl) -> Option<Self> {
        match (url.scheme(), url.expose()) {
            (_, "memory:") => Some(Self::Memory),
            ("redis" | "rediss" | "redis+unix" | "unix", _) => Some(Self::Redis(url.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_password_shows_in_no_text_made_of_a_url() {
        for url in [
            "postgres://remeet:hush@db.example:5432/meetings",
            "postgres://remeet:hu@hush@db.example/meetings",
            "redis://:hush@cache.example",
            "postgres://db.example/meetings?password=hush&sslmode=require",
            "postgres://remeet:hu#sh hush@db.example/meetings",
        ] {
            let url = SecretUrl::new(url);
            for text in [format!("{url}"), format!("{url:?}"), shown(&format!("invalid value \"{}\"", url.expose()))] {
                assert!(!text.contains("hush"), "{text}");
                assert!(text.contains("example"), "the host still shows: {text}");
            }
        }
    }

    #[test]
    fn the_host_is_found_behind_user_and_password() {
        for (url, host) in [
            ("redis://127.0.0.1:6379/0", "127.0.0.1"),
            ("postgres://u:p@db.example:5432/x", "db.example"),
            ("redis://[::1]:6379", "::1"),
            ("postgres:///x?host=/run/postgresql", ""),
            ("memory:", ""),
        ] {
            assert_eq!(SecretUrl::new(url).host(), host, "{url}");
        }
    }

    #[test]
    fn an_embedded_store_is_a_file_and_never_memory() {
        let state = Path::new("/state");
        let read = |text| StoreAddress::read(&SecretUrl::new(text), state);
        assert_eq!(read("sqlite:remeet.db").unwrap(), StoreAddress::Sqlite("/state/remeet.db".into()));
        assert_eq!(read("sqlite:///var/x.db").unwrap(), StoreAddress::Sqlite("/var/x.db".into()));
        for refused in ["sqlite::memory:", "sqlite:", "mysql://h/x", "", "remeet.db"] {
            assert_eq!(read(refused), None, "{refused}");
        }
    }
}
